"""1 for an item that the user comments on, as the environment answers; rarer than a click, and a stronger sign.

R = share of the distinct items of a response that are commented on
"""

from __future__ import annotations

from torch import Tensor

from recrl.groups.matches import distinct, mean_over
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rewards.base import RewardContext, RewardOptions


def comment(groups: RolloutGroups, options: RewardOptions, context: RewardContext) -> Tensor:  # noqa: ARG001
    """[B, G] float32."""
    return mean_over(distinct(groups), context.answers.commented.float())


COMMENT = Part(RewardOptions, comment, needs="feedback")
