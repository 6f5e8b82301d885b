"""What the items of a response and the targets have in common, as several rewards and signals count it.

Letters: B prompts, G responses a prompt, I items of a slate, L SID levels, S targets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.groups.rollout import RolloutGroups


def common_levels(groups: RolloutGroups) -> Tensor:
    """[B, G, I] int64: leading SID codes that an item shares with the target nearest to it; 0 where it names none."""
    own, asked = groups.codes.unsqueeze(3), groups.prompts.targets.codes[:, None, None]
    common = ((own == asked) & (own >= 0)).to(torch.int64).cumprod(-1).sum(-1)  # [B, G, I, S]
    return torch.where(groups.exists.unsqueeze(-1), common.amax(-1), 0)


def nearness(groups: RolloutGroups) -> Tensor:
    """[B, G, I] float32: 1 where all codes are a target's, a tenth for every level that is missing at the end, 0
    without a common first code (papers.md D-2; OpenOneRec's 100, 10, 1 and 0 of three levels, over 100).
    """
    common, levels = common_levels(groups), groups.codes.shape[-1]
    return torch.where(common > 0, 10.0 ** (common - levels).float(), 0.0)


def cosine(groups: RolloutGroups, vectors: Tensor) -> Tensor:
    """[B, G, I] float32 in [0, 1]: cosine of an item's vector with that of the target nearest to it, 0 where the two
    point apart and where the response names no item.

    Args:
        vectors: [items, D] of length 1, or 0 where nothing is known of an item.
    """
    asked, named = groups.prompts.targets.items, groups.items
    own = vectors[named.clamp(min=0)].flatten(1, 2)  # [B, G * I, D]
    wanted = vectors[asked.clamp(min=0)] * (asked >= 0).unsqueeze(-1)  # [B, S, D]
    near = (own @ wanted.transpose(1, 2)).amax(-1).view(named.shape).clamp(0, 1)
    near = torch.where(groups.item_hits, 1.0, near)  # nothing may be known of the very target
    return torch.where(groups.exists.unsqueeze(-1) & (named >= 0), near, 0.0)


def distinct(groups: RolloutGroups) -> Tensor:
    """[B, G, I] bool: an item stands here, and not before in the same slate; the slate as a set."""
    items = groups.items
    earlier = torch.ones(items.shape[-1], items.shape[-1], device=items.device).tril(-1).bool()
    repeated = ((items.unsqueeze(-1) == items.unsqueeze(-2)) & earlier).any(-1)
    return groups.exists.unsqueeze(-1) & (items >= 0) & ~repeated


def mean_over(among: Tensor, value: Tensor) -> Tensor:
    """[B, G]: mean of [B, G, I] values over some items, 0 where there are none."""
    return torch.where(among, value, 0.0).sum(-1) / among.sum(-1).clamp(min=1)
