"""1 for an item that the user clicks on, as the environment answers; less for one that he rejects.

    R = mean of (clicked - rejection_cost x rejected)

The mean is over the distinct items of a response.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from recrl.groups.matches import distinct, mean_over
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rewards.base import RewardContext, RewardOptions


class ClickOptions(RewardOptions):
    rejection_cost: float = Field(0.0, ge=0)
    """Taken off for an item that the user rejects."""


def click(groups: RolloutGroups, options: ClickOptions, context: RewardContext) -> Tensor:
    """[B, G] float32."""
    given = context.answers
    return mean_over(distinct(groups), given.clicked.float() - options.rejection_cost * given.rejected.float())


CLICK = Part(ClickOptions, click, needs="feedback")
