"""A penalty for every miss, the larger the higher it stands in the list (SINGER, eq. 7; papers.md C-6).

    R_rank = 0 for a hit, -1 / ln(p + 1) for a miss at place p

Places are counted from 1, hits included.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rewards.base import RewardContext, RewardOptions


class RankOptions(RewardOptions):
    rank_gate: Literal["hit_only", "always"] = "hit_only"
    """Whether groups without a hit are penalised too. Their penalties would raise the end of the list, and nothing says
    that it is any better."""
    scale: Literal["singer", "minionerec"] = "singer"
    """``-1 / ln(place + 1)``, or MiniOneRec's ``-1 / log2(place + 1)`` scaled to a sum of -1 over the list."""


def rank(groups: RolloutGroups, options: RankOptions, context: RewardContext) -> Tensor:  # noqa: ARG001
    """[B, G] float32: 0 for hits. Places are counted from 1 over all responses that exist, hits included."""
    place = groups.exists.cumsum(1).clamp(min=1).float()
    if options.scale == "singer":
        penalty = 1 / (place + 1).log()
    else:
        share = torch.where(groups.exists, 1 / (place + 1).log2(), 0.0)
        penalty = share / share.sum(1, keepdim=True).clamp(min=1e-9)
    hits = groups.hits
    answerable = (groups.prompts.targets.items >= 0).any(1, keepdim=True)
    penalised = groups.exists & ~hits & answerable
    if options.rank_gate == "hit_only":
        penalised &= hits.any(1, keepdim=True)
    return torch.where(penalised, -penalty, 0.0)


RANK = Part(RankOptions, rank, source="SINGER, eq. 7", needs="targets")
