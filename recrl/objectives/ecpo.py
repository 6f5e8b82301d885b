"""ECPO: PPO's clip on a ratio that is capped first (OneRec, as told in arXiv:2508.20900; papers.md B-2).

    pi_old' = max(sg pi / (1 + clip + delta), pi_old),  r' = pi / pi_old'
    J = mean over rows of (1/T) sum_t min(r' A, clip(r', 1 - clip, 1 + clip) A)

A positive advantage is clipped below the cap anyway; a negative one has a coefficient of at most 1 + clip + delta.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from recrl.objectives.base import Objective, ObjectiveInputs, ObjectiveOptions, log_ratio, rows_with_tokens, total
from recrl.objectives.grpo import clipped_ratio


class EcpoOptions(ObjectiveOptions):
    clip: float = Field(0.2, ge=0, lt=1)
    """The ratio is clipped this far from 1."""
    delta: float = Field(0.1, ge=0)
    """How far above the clip the cap lies."""


def ecpo(logp: Tensor, inputs: ObjectiveInputs, options: EcpoOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """The negated objective, summed over rows.

    Args:
        logp: [N, R] under the policy in training; the only argument that carries a gradient.
        inputs: see ``ObjectiveInputs``.

    Returns:
        See ``total``.
    """
    cap = 1 + options.clip + options.delta
    ratio = log_ratio(logp, inputs.logp_old, inputs.mask).exp()
    # Divided by itself over the cap: the value is the cap, and the gradient that of the cap times logp.
    early = ratio / (ratio.detach() / cap).clamp(min=1)
    loss, bounded = clipped_ratio(early, inputs.advantage, 1 - options.clip, 1 + options.clip)
    capped = (ratio > cap) & (inputs.advantage != 0).unsqueeze(1)
    return total(loss, logp, inputs, options, bounded=bounded | capped)


ECPO = Objective(EcpoOptions, ecpo, source="arXiv:2508.20900", units=rows_with_tokens)
