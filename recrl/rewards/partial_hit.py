"""Mean credit of a response's items: 1 for all codes of a target, a tenth for every level less (``partial_hit``
of Kuaishou-OneRec/OpenOneRec over 100; papers.md D-2 and E-1).
"""

from __future__ import annotations

from torch import Tensor

from recrl.groups.matches import distinct, mean_over, nearness
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rewards.base import RewardContext, RewardOptions


def partial_hit(groups: RolloutGroups, options: RewardOptions, context: RewardContext) -> Tensor:  # noqa: ARG001
    """[B, G] float32: by SID codes, the best of several targets for every item."""
    return mean_over(distinct(groups), nearness(groups))


PARTIAL_HIT = Part(RewardOptions, partial_hit, source="Kuaishou-OneRec/OpenOneRec", needs="targets")
