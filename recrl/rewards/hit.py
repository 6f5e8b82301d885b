"""1 where the response names a target, else 0 (OpenOneRec's RL baseline, SINGER's R_acc; papers.md E-1, C-6)."""

from __future__ import annotations

from torch import Tensor

from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rewards.base import RewardContext, RewardOptions


def hit(groups: RolloutGroups, options: RewardOptions, context: RewardContext) -> Tensor:  # noqa: ARG001
    """[B, G] float32, by item and not by SID text."""
    return groups.hits.float()


HIT = Part(RewardOptions, hit, source="papers.md E-1", needs="targets")
