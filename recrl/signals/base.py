"""What a signal sees besides groups and rewards, and how it takes rewards together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recrl.groups.rollout import RolloutGroups
from recrl.kernels.ops import Ops
from recrl.sids.trie import Trie


@dataclass(frozen=True)
class SignalContext:
    """The surroundings of one step.

    Attributes:
        ops: the kernels of the run.
        trie: the legal responses, to build one from an item.
        seed: of this step's random numbers.
        state: what the signal returned at the step before; empty at the first.
        memory_weight: exponent of the policy's memory, 0 without one.
        vectors: gives [items, D] float32 unit vectors of the items' text, made at the first call.
    """

    ops: Ops
    trie: Trie
    seed: int = 0
    state: Mapping[str, float] = field(default_factory=dict)
    vectors: Callable[[], Tensor] | None = None
    memory_weight: float = 0.0


def weighted_total(groups: RolloutGroups, rewards: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted sum of the rewards.

    Args:
        rewards: [B, G, M], NaN where one is undefined.
        weights: [M]; what has weight 0 is ignored, NaN included.

    Returns:
        [B, G] sums, 0 where a response has none, and [B, G] bool: responses that exist and have one.
    """
    weighted = torch.where(weights != 0, rewards * weights, 0.0)
    total = weighted.sum(-1)
    scored = groups.exists & ~weighted.isnan().any(-1)
    return torch.where(scored, total, 0.0), scored
