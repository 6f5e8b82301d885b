"""Share of a slate's places that hold a valid item not named before (SAGE's third objective; papers.md A-6)."""

from __future__ import annotations

from torch import Tensor

from recrl.components import Part
from recrl.groups import RolloutGroups
from recrl.rewards.base import RewardContext, RewardOptions
from recrl.rewards.matches import distinct


def valid_distinct(groups: RolloutGroups, options: RewardOptions, context: RewardContext) -> Tensor:  # noqa: ARG001
    """[B, G] float32."""
    return distinct(groups).float().mean(-1)


VALID_DISTINCT = Part(RewardOptions, valid_distinct, source="SAGE, arXiv:2601.21452")
