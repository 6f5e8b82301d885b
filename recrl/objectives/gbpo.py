"""GBPO: the gradient is bounded by the policy's own probability (OneRec-V2, arXiv:2508.20900, eq. 11; papers.md B-1).

    J = mean of (pi / bound) A
    bound = max(pi_old, sg pi) where A >= 0, max(pi_old, 1 - sg pi) where A < 0

So A's coefficient is min(r, 1) above, and min(r, pi / (1 - pi)) below: what is unlikely already is hardly pushed down.
With ``level = "response"``, one optimiser step a rollout and A = w for a click, -1 for none, this is the gradient of
the cross-entropy w c log pi + (1 - c) log(1 - pi): pi comes to rest where its odds are w times those of a click, so
it ranks as clicks do, whatever was shown how often.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from recrl.objectives.base import (
    MAX_LOG_RATIO,
    Objective,
    ObjectiveInputs,
    ObjectiveOptions,
    log_ratio,
    near,
    rows_with_tokens,
    total,
)

LEAST = 1e-6
"""1 - pi is at least this."""


class GbpoOptions(ObjectiveOptions):
    level: Literal["token", "sequence", "response"] = "token"
    """Probabilities of tokens, averaged over a row's tokens; their geometric mean over the row; or their product, the
    response's own probability."""


def gbpo(logp: Tensor, inputs: ObjectiveInputs, options: GbpoOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """The negated objective, summed over rows.

    Args:
        logp: [N, R] under the policy in training; the only argument that carries a gradient.
        inputs: see ``ObjectiveInputs``.

    Returns:
        See ``total``.
    """
    mask, advantage = inputs.mask, inputs.advantage.unsqueeze(1)
    old = torch.where(mask, inputs.logp_old, 0.0)
    if options.level == "token":
        ratio = log_ratio(logp, inputs.logp_old, mask).exp()
    elif options.level == "response":
        old = old.sum(1, keepdim=True)
        change = log_ratio(logp, inputs.logp_old, mask).sum(1, keepdim=True)
        ratio = change.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()  # a response's tokens can add up to more
    else:
        old = old.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        ratio = inputs.ops.gmean_ratio(near(logp, inputs.logp_old), inputs.logp_old, mask).unsqueeze(1)
    below = odds_bound(ratio.detach(), old.exp())
    bound = torch.where(advantage < 0, below, ratio.detach().clamp(min=1))
    loss = -(ratio / bound) * advantage
    return total(loss.expand_as(logp), logp, inputs, options, bounded=((bound > 1) & (advantage != 0)).expand_as(logp))


def odds_bound(ratio: Tensor, old: Tensor, penalty: Tensor | float = 1.0) -> Tensor:
    """What a ratio is divided by where the advantage is negative: ``max(1, (1 - pi) / (penalty pi_old))``.

    The coefficient is then ``min(r, penalty pi / (1 - pi))`` (papers.md B-1, and A-3 with a penalty above 1).

    Args:
        ratio: pi / pi_old, without a gradient.
        old: pi_old.
    """
    rest = (1 - ratio * old).clamp(min=LEAST)
    return (rest / (penalty * old.clamp(min=torch.finfo(old.dtype).tiny))).clamp(min=1)


GBPO = Objective(GbpoOptions, gbpo, source="arXiv:2508.20900, eq. 11", units=rows_with_tokens)
