"""Share of a slate's places that hold a valid item not named before (SAGE's third objective; papers.md A-6)."""

from __future__ import annotations

from torch import Tensor

from recrl.groups.matches import distinct
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rewards.base import RewardContext, RewardOptions


def valid_distinct(groups: RolloutGroups, options: RewardOptions, context: RewardContext) -> Tensor:  # noqa: ARG001
    """[B, G] float32."""
    return distinct(groups).float().mean(-1)


VALID_DISTINCT = Part(RewardOptions, valid_distinct, source="SAGE, arXiv:2601.21452")
