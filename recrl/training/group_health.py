"""What a step's groups look like before anything is filtered."""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.groups.rollout import RolloutGroups, Signal


def group_health(groups: RolloutGroups, signal: Signal, rewards: Tensor, weights: Tensor) -> dict[str, float]:
    """Metrics of the rollout, the rewards and the signal.

    Args:
        groups: as rolled out, before repair.
        signal: what became of those that went on.
        rewards: [B, G, M], NaN where a response can't be scored.
        weights: [M].
    """
    exists = groups.exists
    count = exists.sum().clamp(min=1)
    hits = groups.hits.sum(1)
    total = torch.where(exists, (rewards.nan_to_num() * weights).sum(-1), 0.0)
    items = torch.where(exists.unsqueeze(-1), groups.items, -1).flatten(1).sort(1).values
    fresh = torch.ones_like(items, dtype=torch.bool)
    fresh[:, 1:] = items[:, 1:] != items[:, :-1]
    distinct = (fresh & (items >= 0)).sum()
    slots = count * groups.items.shape[-1]
    values = {
        "reward/mean": total.sum() / count,
        "reward/hit_ratio": (hits > 0).float().mean(),
        "rollout/valid_ratio": (groups.items[exists] >= 0).float().mean(),
        "rollout/distinct_ratio": distinct / slots,
        "rollout/responses": count,
        "rollout/answerable_ratio": groups.prompts.answerable.float().mean(),
        "signal/all_zero_ratio": (hits == 0).float().mean(),
        "signal/single_hit_ratio": (hits == 1).float().mean(),
        "signal/trainable_ratio": ((signal.advantage != 0) & signal.active).any(1).sum() / len(hits),
        "signal/repaired_ratio": signal.repaired.sum() / len(hits),
        "signal/kept_ratio": torch.tensor(len(signal.repaired) / len(hits), device=hits.device),
        "signal/active_rows": signal.active.sum(),
        "tokens/unfiltered": groups.prompts.length.sum() + (groups.mask.sum(-1) - 1).clamp(min=0).sum(),
    }
    names, stacked = list(values), torch.stack([value.float() for value in values.values()])
    return dict(zip(names, stacked.tolist(), strict=True))


def unequal(groups: RolloutGroups, rewards: Tensor) -> Tensor:
    """[B] bool: two responses of the group differ in a reward."""
    scored = groups.exists.unsqueeze(-1) & ~rewards.isnan()
    highest = rewards.masked_fill(~scored, float("-inf")).amax(1)
    lowest = rewards.masked_fill(~scored, float("inf")).amin(1)
    return (highest > lowest).any(-1)
