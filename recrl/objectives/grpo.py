"""GRPO: PPO's clipped surrogate, two bounds, dual clip, a k3 KL term (arXiv:2402.03300; METHODS B-3 and B-4)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from recrl.groups import PackedGroups
from recrl.objectives.base import Objective, ObjectiveInputs, ObjectiveOptions, k3, log_ratio, rows_with_tokens


class GrpoOptions(ObjectiveOptions):
    clip_low: float = Field(0.2, ge=0, lt=1)
    clip_high: float = Field(0.2, ge=0)
    dual_clip: float = Field(0.0, ge=0)
    """Bound on the loss of rows with a negative advantage (verl: 3); 0 is off."""
    average: Literal["row", "token"] = "row"
    """Mean over tokens within rows and then over rows (GRPO), or over all tokens (DAPO, verl's default)."""


def grpo(logp: Tensor, inputs: ObjectiveInputs, options: GrpoOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """The negated objective, summed over rows (``average = "row"``) or over tokens.

    Args:
        logp: [N, R] under the policy in training; the only argument that carries a gradient.
        inputs: see ``ObjectiveInputs``.

    Returns:
        The sum, and token sums to report: ``clip_ratio``, ``ppo_kl`` (k1, nats), ``kl_loss`` (k3, nats), ``tokens``.
    """
    mask, advantage = inputs.mask, inputs.advantage.unsqueeze(1)
    change = log_ratio(logp, inputs.logp_old, mask)
    ratio = change.exp()
    clipped = ratio.clamp(1 - options.clip_low, 1 + options.clip_high)
    surrogate = torch.minimum(ratio * advantage, clipped * advantage)
    if options.dual_clip > 0:
        surrogate = torch.where(advantage < 0, torch.maximum(surrogate, options.dual_clip * advantage), surrogate)
    per_token = -surrogate
    report = {
        "clip_ratio": ((ratio * advantage > clipped * advantage) & mask).sum(),
        "ppo_kl": -change.sum(),
        "tokens": mask.sum(),
    }
    if inputs.logp_ref is not None:
        divergence = k3(logp, inputs.logp_ref, mask)
        per_token = per_token + options.kl_beta * divergence
        report["kl_loss"] = torch.where(mask, divergence, 0.0).sum()
    per_token = torch.where(mask, per_token, 0.0)
    if options.average == "row":
        per_token = per_token / mask.sum(1, keepdim=True).clamp(min=1)
    return per_token.sum(), {name: value.detach() for name, value in report.items()}


def units(rows: PackedGroups, options: GrpoOptions) -> Tensor:
    """Rows that have a token, or tokens."""
    return rows_with_tokens(rows, options) if options.average == "row" else rows.mask.sum()


GRPO = Objective(GrpoOptions, grpo, source="arXiv:2402.03300", units=units)
