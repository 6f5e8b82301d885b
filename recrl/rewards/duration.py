"""How long the items are watched, as the environment answers.

    R = mean of min(watched seconds / unit_s, longest)

The mean is over the distinct items of a response.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from recrl.groups.matches import distinct, mean_over
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rewards.base import RewardContext, RewardOptions


class DurationOptions(RewardOptions):
    unit_s: float = Field(60.0, gt=0)
    """Seconds that are worth 1."""
    longest: float = Field(3.0, gt=0)
    """Units that an item earns at most: one long view is no reason for a large step."""


def duration(groups: RolloutGroups, options: DurationOptions, context: RewardContext) -> Tensor:
    """[B, G] float32; 0 where nothing was clicked."""
    units = (context.answers.watch_s / options.unit_s).clamp(max=options.longest)
    return mean_over(distinct(groups), units)


DURATION = Part(DurationOptions, duration, needs="feedback")
