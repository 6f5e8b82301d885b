"""GRPO's signal: rewards centred and scaled within each group (arXiv:2402.03300; papers.md B-3).

    A = (R - mean R) / (std R + std_eps)

Mean and standard deviation (std) are over the responses of a prompt.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from recrl.groups.rollout import RolloutGroups, Signal
from recrl.groups.within_group import masked_zscore
from recrl.parts import Options, Part
from recrl.signals.base import SignalContext, weighted_total


class ZscoreOptions(Options):
    std_eps: float = Field(1e-6, ge=0)
    """Added to a standard deviation before it divides."""
    ddof: int = Field(1, ge=0, le=1)
    """1 divides the squares by G - 1 (verl), 0 by G."""
    drop_flat: bool = True
    """Filter the rows of groups whose rewards are all equal, and rows without a reward: they have no gradient. Off
    keeps them for a KL term."""


class GroupZscoreOptions(ZscoreOptions):
    scale_by_std: bool = True
    """Divide by the group's standard deviation; off gives Dr. GRPO (arXiv:2503.20783)."""


def group_zscore(
    groups: RolloutGroups,
    rewards: Tensor,
    weights: Tensor,
    options: GroupZscoreOptions,
    context: SignalContext,
) -> Signal:
    """The weighted sum of the rewards, normalised in each group."""
    total, scored = weighted_total(groups, rewards, weights)
    advantage, informative = normalised(total, scored, options)
    active = scored & informative.unsqueeze(1) if options.drop_flat else groups.exists
    return Signal(groups, advantage, active, torch.zeros_like(informative), context.state)


def normalised(total: Tensor, scored: Tensor, options: GroupZscoreOptions) -> tuple[Tensor, Tensor]:
    """[B, G] rewards -> [B, G] advantages, and [B] bool: groups that say something."""
    return masked_zscore(total, scored, scale=options.scale_by_std, eps=options.std_eps, ddof=options.ddof)


GROUP_ZSCORE = Part(GroupZscoreOptions, group_zscore, source="arXiv:2402.03300")
