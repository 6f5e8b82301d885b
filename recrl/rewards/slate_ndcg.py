"""NDCG of a slate against the items that the user took next (SAGE's first objective; papers.md A-6 and A-8).

    R = DCG / best DCG,  DCG = sum over hits of 1 / log2(place + 1)

The best slate has its hits first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.groups.matches import distinct
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rewards.base import RewardContext, RewardOptions


def slate_ndcg(groups: RolloutGroups, options: RewardOptions, context: RewardContext) -> Tensor:  # noqa: ARG001
    """[B, G] float32: with one target ``1 / log2(place + 1)``. A repeated item counts at its first place alone."""
    places = torch.arange(groups.items.shape[-1], device=groups.items.device)
    gain = 1 / (places + 2).float().log2()
    found = torch.where(groups.item_hits & distinct(groups), gain, 0.0).sum(-1)
    ideal = gain.cumsum(0)[_set_size(groups.prompts.targets.items).clamp(1, len(gain)) - 1]
    return found / ideal.unsqueeze(1)


def _set_size(items: Tensor) -> Tensor:
    """[B] distinct items of [B, S] rows that are padded with -1."""
    ordered = items.sort(1).values
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return (fresh & (ordered >= 0)).sum(1)


SLATE_NDCG = Part(RewardOptions, slate_ndcg, source="SAGE, arXiv:2601.21452", needs="targets")
