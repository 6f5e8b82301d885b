"""GRPO: PPO's clipped surrogate, two bounds, dual clip, a k3 KL term (arXiv:2402.03300; papers.md B-3, B-4 and B-6).

    J = mean over rows of (1/T) sum_t min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) - kl_beta KL(policy || reference)

DAPO's loss is ``clip_high = 0.28``, ``average = "token"`` and no KL; Dr. GRPO's (arXiv:2503.20783) is
``average = "sum"`` with a signal that does not divide by the standard deviation. Its code divides by a constant too,
the longest response allowed; that scales the whole gradient, which Adam does not see and clipping its norm does.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from recrl.groups.packed import PackedGroups
from recrl.objectives.base import (
    Average,
    Objective,
    ObjectiveInputs,
    ObjectiveOptions,
    log_ratio,
    rows_with_tokens,
    total,
)


class GrpoOptions(ObjectiveOptions):
    clip_low: float = Field(0.2, ge=0, lt=1)
    """The ratio is clipped below 1 minus this."""
    clip_high: float = Field(0.2, ge=0)
    """The ratio is clipped above 1 plus this."""
    dual_clip: float = Field(0.0, ge=0)
    """Bound on the loss of rows with a negative advantage (verl: 3); 0 is off."""
    average: Average = "row"
    """Mean over tokens within rows and then over rows (GRPO); over all tokens (DAPO, verl's default); or over rows of
    their tokens' sums (Dr. GRPO)."""


def grpo(logp: Tensor, inputs: ObjectiveInputs, options: GrpoOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """The negated objective, summed over rows, or over tokens with ``average = "token"``.

    Args:
        logp: [N, R] under the policy in training; the only argument that carries a gradient.
        inputs: see ``ObjectiveInputs``.

    Returns:
        See ``total``.
    """
    loss, bounded = clipped(logp, inputs, 1 - options.clip_low, 1 + options.clip_high)
    if options.dual_clip > 0:
        advantage = inputs.advantage.unsqueeze(1)
        loss = torch.where(advantage < 0, torch.minimum(loss, -options.dual_clip * advantage), loss)
    return total(loss, logp, inputs, options, bounded=bounded, average=options.average)


def clipped(logp: Tensor, inputs: ObjectiveInputs, low: float, high: float) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate, negated: [N, R] terms, and where the clip holds them."""
    return clipped_ratio(log_ratio(logp, inputs.logp_old, inputs.mask).exp(), inputs.advantage, low, high)


def clipped_ratio(ratio: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The same of ratios [N, R] and advantages [N]."""
    raw, held = ratio * advantage.unsqueeze(1), ratio.clamp(low, high) * advantage.unsqueeze(1)
    return -torch.minimum(raw, held), raw > held


def units(rows: PackedGroups, options: GrpoOptions) -> Tensor:
    """Rows that have a token, or tokens."""
    return rows.mask.sum().clamp(min=1) if options.average == "token" else rows_with_tokens(rows, options)


GRPO = Objective(GrpoOptions, grpo, source="arXiv:2402.03300", units=units)
