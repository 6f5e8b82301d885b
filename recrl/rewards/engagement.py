"""Mean engagement of the distinct items that hit, 0 without a hit (SAGE's second objective; papers.md A-6); an item's
engagement is log(1 + training count) over the largest of the catalogue.
"""

from __future__ import annotations

from torch import Tensor

from recrl.groups.matches import distinct, mean_over
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rewards.base import RewardContext, RewardOptions


def engagement(groups: RolloutGroups, options: RewardOptions, context: RewardContext) -> Tensor:  # noqa: ARG001
    """[B, G] float32: how much the training users took the items stands for clicks and watch time."""
    worth = context.engagement[groups.items.clamp(min=0)]
    return mean_over(groups.item_hits & distinct(groups), worth)


ENGAGEMENT = Part(RewardOptions, engagement, source="SAGE, arXiv:2601.21452", needs="targets")
