"""+1 for a hit, -1 for a miss: S-DPO's pairs and OneRec-V2's plain feedback (papers.md B-1 and B-9).

    A = positive_weight where R > 0, -negative_weight elsewhere

Nothing is normalised.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from recrl.groups.rollout import RolloutGroups, Signal
from recrl.parts import Options, Part
from recrl.signals.base import SignalContext, weighted_total


class SignOptions(Options):
    positive_weight: float = Field(1.0, ge=0)
    """Advantage of responses with a reward above 0; at 0 they are filtered."""
    negative_weight: float = Field(1.0, ge=0)
    """The same of the others, with its sign turned."""
    drop_one_sided: bool = True
    """Filter groups that lack a hit or a miss."""


def sign(
    groups: RolloutGroups, rewards: Tensor, weights: Tensor, options: SignOptions, context: SignalContext
) -> Signal:
    """The weighted sum of the rewards, as a sign."""
    total, scored = weighted_total(groups, rewards, weights)
    hits, misses = scored & (total > 0), scored & (total <= 0)
    if options.drop_one_sided:
        both = hits.any(1, keepdim=True) & misses.any(1, keepdim=True)
        hits, misses = hits & both, misses & both
    advantage = options.positive_weight * hits.float() - options.negative_weight * misses.float()
    return Signal(groups, advantage, advantage != 0, torch.zeros_like(hits[:, 0]), context.state)


SIGN = Part(SignOptions, sign, source="S-DPO; OneRec-V2, arXiv:2508.20900")
