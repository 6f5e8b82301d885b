"""Every reward normalised in its group by itself, then their weighted sum over the batch (SAGE, eq. 5, which is GDPO's;
papers.md A-6).

    a_m = (R_m - mean_group R_m) / (std_group R_m + std_eps)
    a = sum_m w_m a_m,  A = (a - mean_batch a) / (std_batch a + std_eps)

Summed first, the reward of the largest scale decides, and a group in which several rewards agree looks like one in
which a single reward speaks.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from recrl.groups.rollout import RolloutGroups, Signal
from recrl.groups.within_group import masked_zscore
from recrl.parts import Part
from recrl.signals.base import SignalContext, weighted_total
from recrl.signals.group_zscore import ZscoreOptions


class DecoupledOptions(ZscoreOptions):
    decouple: bool = True
    """Off sums the weighted rewards before they are normalised (SAGE's ablation); the rest stays."""


def decoupled(
    groups: RolloutGroups, rewards: Tensor, weights: Tensor, options: DecoupledOptions, context: SignalContext
) -> Signal:
    """Weights multiply the normalised rewards. A response without one of them is in no mean and has advantage 0."""
    total, scored = weighted_total(groups, rewards, weights)
    normalise = partial(masked_zscore, scale=True, eps=options.std_eps, ddof=options.ddof)
    if options.decouple:
        batch, group, count = rewards.shape
        counted = torch.where(weights != 0, rewards, 0.0).movedim(-1, 1)  # [B, M, G]
        single, told = normalise(counted.reshape(-1, group), scored.repeat_interleave(count, 0))
        combined = (single.view(batch, count, group) * weights.unsqueeze(1)).sum(1)
        informative = told.view(batch, count).any(1)
    else:
        combined, informative = normalise(total, scored)
    over_batch, _ = normalise(combined.reshape(1, -1), scored.reshape(1, -1))
    trained = scored & informative.unsqueeze(1)
    # The batch's mean is 0 up to rounding; a flat group's advantage is 0 exactly.
    advantage = torch.where(trained, over_batch.view_as(total), 0.0)
    active = trained if options.drop_flat else groups.exists
    return Signal(groups, advantage, active, torch.zeros_like(informative), context.state)


DECOUPLED = Part(DecoupledOptions, decoupled, source="SAGE, arXiv:2601.21452; GDPO")
