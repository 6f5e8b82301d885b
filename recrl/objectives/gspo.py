"""GSPO: PPO's clip on the sequence-level ratio (arXiv:2507.18071; METHODS B-5)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from recrl.objectives.base import MAX_LOG_RATIO, Objective, ObjectiveInputs, ObjectiveOptions, k3, rows_with_tokens


class GspoOptions(ObjectiveOptions):
    clip_low: float = Field(3e-4, ge=0, lt=1)
    clip_high: float = Field(4e-4, ge=0)


def gspo(logp: Tensor, inputs: ObjectiveInputs, options: GspoOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """The negated objective, summed over rows.

    Args:
        logp: [N, R] under the policy in training; the only argument that carries a gradient.
        inputs: see ``ObjectiveInputs``.

    Returns:
        The sum, and token sums to report: ``clip_ratio``, ``ppo_kl`` (k1, nats), ``kl_loss`` (k3, nats), ``tokens``.
    """
    mask, advantage = inputs.mask, inputs.advantage
    # Rule 2 of METHODS bounds a token's log-ratio; within it the op's mean is exact.
    bounded = inputs.logp_old + (logp - inputs.logp_old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = inputs.ops.gmean_ratio(bounded, inputs.logp_old, mask)
    clipped = ratio.clamp(1 - options.clip_low, 1 + options.clip_high)
    per_row = -torch.minimum(ratio * advantage, clipped * advantage)
    length = mask.sum(1)
    report = {
        "clip_ratio": (length * (ratio * advantage > clipped * advantage)).sum(),
        "ppo_kl": -torch.where(mask, logp - inputs.logp_old, 0.0).sum(),
        "tokens": length.sum(),
    }
    if inputs.logp_ref is not None:
        divergence = torch.where(mask, k3(logp, inputs.logp_ref, mask), 0.0).sum(1)
        per_row = per_row + options.kl_beta * divergence / length.clamp(min=1)
        report["kl_loss"] = divergence.sum()
    return torch.where(length > 0, per_row, 0.0).sum(), {name: value.detach() for name, value in report.items()}


GSPO = Objective(GspoOptions, gspo, source="arXiv:2507.18071", units=rows_with_tokens)
