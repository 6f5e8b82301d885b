"""Rewards of a group against each other.

Letters: B groups, G responses.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLAT = 1e-8
"""Standard deviation below which a group says nothing (papers.md, rule 3)."""


def masked_zscore(reward: Tensor, exists: Tensor, *, scale: bool, eps: float, ddof: int) -> tuple[Tensor, Tensor]:
    """Centre (and scale) every row over its existing entries.

    Args:
        reward: [B, G]; anything, NaN too, where nothing exists.
        exists: [B, G] bool.
        scale: divide by the standard deviation.
        eps: added to it.
        ddof: 1 divides the squares by one less than the entries.

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
    informative = (count >= 2) & (std >= FLAT) & (largest > smallest)
    advantage = centred / (std + eps) if scale else centred
    return torch.where(informative, advantage, 0.0), informative.squeeze(1)
