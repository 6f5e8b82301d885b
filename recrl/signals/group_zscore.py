"""GRPO's signal: rewards centred and scaled within each group (arXiv:2402.03300; METHODS B-3)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from recrl.components import Options, Part
from recrl.groups import RolloutGroups, Signal
from recrl.signals.base import SignalContext

FLAT = 1e-8
"""Standard deviation below which a group says nothing (METHODS, rule 3)."""


class GroupZscoreOptions(Options):
    scale_by_std: bool = True
    """Divide by the group's standard deviation; off gives Dr. GRPO (arXiv:2503.20783)."""
    std_eps: float = Field(1e-6, ge=0)
    ddof: int = Field(1, ge=0, le=1)
    """1 divides the squares by G - 1 (verl), 0 by G."""
    drop_flat: bool = True
    """Filter the rows of groups whose rewards are all equal: they have no gradient. Off keeps them for a KL term."""


def masked_zscore(reward: Tensor, exists: Tensor, *, scale: bool, eps: float, ddof: int) -> tuple[Tensor, Tensor]:
    """Centre (and scale) every row over its existing entries.

    Args:
        reward: [B, G].
        exists: [B, G] bool.

    Returns:
        [B, G] advantages, 0 where nothing exists, and [B] bool: rows with at least two entries that differ.
    """
    count = exists.sum(1, keepdim=True)
    value = torch.where(exists, reward, 0.0)
    mean = value.sum(1, keepdim=True) / count.clamp(min=1)
    centred = torch.where(exists, value - mean, 0.0)
    std = (centred.square().sum(1, keepdim=True) / (count - ddof).clamp(min=1)).sqrt()
    # The mean of equal rewards may be off by a rounding, and dividing by a std of roundings would make it a signal.
    largest = reward.masked_fill(~exists, float("-inf")).amax(1, keepdim=True)
    smallest = reward.masked_fill(~exists, float("inf")).amin(1, keepdim=True)
    telling = (count >= 2) & (std >= FLAT) & (largest > smallest)
    advantage = centred / (std + eps) if scale else centred
    return torch.where(telling, advantage, 0.0), telling.squeeze(1)


def group_zscore(
    groups: RolloutGroups,
    rewards: Tensor,
    weights: Tensor,
    options: GroupZscoreOptions,
    context: SignalContext,
) -> Signal:
    """The weighted sum of the rewards, normalised in each group."""
    total = (rewards * weights).sum(-1)
    advantage, telling = masked_zscore(
        total, groups.exists, scale=options.scale_by_std, eps=options.std_eps, ddof=options.ddof
    )
    active = groups.exists & telling.unsqueeze(1) if options.drop_flat else groups.exists
    return Signal(groups, advantage, active, torch.zeros_like(telling), context.state)


GROUP_ZSCORE = Part(GroupZscoreOptions, group_zscore, source="arXiv:2402.03300")
