"""Share of a response's distinct items that the user comments on: rarer than clicks, and a stronger sign."""

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
