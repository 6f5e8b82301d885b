"""1 where a response's first item is a target, else 0 (``score`` of Kuaishou-OneRec/OpenOneRec; papers.md E-1)."""

from __future__ import annotations

from torch import Tensor

from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rewards.base import RewardContext, RewardOptions


def first_sid_hit(groups: RolloutGroups, options: RewardOptions, context: RewardContext) -> Tensor:  # noqa: ARG001
    """[B, G] float32; the same as ``hit`` where a response names one item."""
    return groups.item_hits[..., 0].float()


FIRST_SID_HIT = Part(RewardOptions, first_sid_hit, source="Kuaishou-OneRec/OpenOneRec", needs="targets")
