"""GSPO: PPO's clip on the sequence-level ratio (arXiv:2507.18071; papers.md B-5).

    J = mean over rows of min(s A, clip(s, 1 - clip_low, 1 + clip_high) A)
    s = exp(mean_t(logp - logp_old))

s is the geometric mean of a row's token ratios.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from recrl.objectives.base import Objective, ObjectiveInputs, ObjectiveOptions, near, rows_with_tokens, total
from recrl.objectives.grpo import clipped_ratio


class GspoOptions(ObjectiveOptions):
    clip_low: float = Field(3e-4, ge=0, lt=1)
    """The ratio is clipped below 1 minus this."""
    clip_high: float = Field(4e-4, ge=0)
    """The ratio is clipped above 1 plus this."""


def gspo(logp: Tensor, inputs: ObjectiveInputs, options: GspoOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """The negated objective, summed over rows.

    Args:
        logp: [N, R] under the policy in training; the only argument that carries a gradient.
        inputs: see ``ObjectiveInputs``.

    Returns:
        See ``total``.
    """
    ratio = inputs.ops.gmean_ratio(near(logp, inputs.logp_old), inputs.logp_old, inputs.mask).unsqueeze(1)
    loss, bounded = clipped_ratio(ratio, inputs.advantage, 1 - options.clip_low, 1 + options.clip_high)
    return total(loss.expand_as(logp), logp, inputs, options, bounded=bounded.expand_as(logp))


GSPO = Objective(GspoOptions, gspo, source="arXiv:2507.18071", units=rows_with_tokens)
