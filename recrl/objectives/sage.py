"""SAGE: one ratio a slate, a boost for positives, an entropy-aware bound for negatives (papers.md A).

    J = mean over rows of (r / sg Phi) A,  r = exp(sum_t(logp - logp_old) / n)                                  (eq. 6)
    Phi = max(1, r / (1 + boost))                    where A >= 0: the coefficient is min(r, 1 + boost)         (eq. 2)
    Phi = max(1, (1 - p) / (lambda p_old))           where A < 0: it is min(r, lambda p / (1 - p))              (eq. 3)
    lambda = 1 + entropy_beta tanh(max(0, mean H - H))                                                          (eq. 4)

n is the number of tokens (or of items, ``divisor``), p and p_old the geometric means of the slate's probabilities, H
the entropy of its items' categories and mean H its moving average over rollouts, as it was before the present one. At
r = 1, the first optimiser step after a rollout, the boost can't act: give a rollout several. The printed eq. 2
and 3 cannot be meant (papers.md A-2, A-3): they are switches, for comparison.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from recrl.objectives.base import (
    MAX_LOG_RATIO,
    Objective,
    ObjectiveInputs,
    ObjectiveOptions,
    State,
    log_ratio,
    near,
    rows_with_tokens,
    total,
)
from recrl.objectives.gbpo import odds_bound


class SageOptions(ObjectiveOptions):
    boost: float = Field(0.3, ge=0)
    """How far above GBPO's cap of 1 the coefficient of a positive may rise; 0 is the ablation without the boost."""
    pos_bound: Literal["fixed", "printed"] = "fixed"
    """``printed``: eq. 2 by the letter, which jumps at the threshold and has no bound."""
    neg_bound: Literal["gbpo_prob", "ratio_cap", "ratio_floor", "scale", "printed"] = "gbpo_prob"
    """The bound of negatives: GBPO's odds; the ratio by lambda; a soft lower clip; lambda as a factor; eq. 3 by the
    letter, which never acts."""
    entropy_beta: float = Field(0.5, ge=0)
    """Strength of the penalty for slates less diverse than the average; 0 is the ablation without it."""
    entropy_decay: float = Field(0.95, ge=0, lt=1)
    """Of the moving average of slate entropies, one update a rollout."""
    floor: float = Field(0.2, gt=0, lt=1)
    """The epsilon of ``neg_bound = "ratio_floor"``."""
    divisor: Literal["token", "item"] = "token"
    """What the slate's log-ratios are divided by: its tokens, or its items."""


def sage(logp: Tensor, inputs: ObjectiveInputs, options: SageOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """The negated objective, summed over rows.

    Args:
        logp: [N, R] under the policy in training; the only argument that carries a gradient.
        inputs: see ``ObjectiveInputs``.

    Returns:
        See ``total``; ``entropy_lambda`` besides.
    """
    mask, advantage = inputs.mask, inputs.advantage
    length = mask.sum(1)
    if options.divisor == "token":
        count = length
        ratio = inputs.ops.gmean_ratio(near(logp, inputs.logp_old), inputs.logp_old, mask)
    else:
        count = inputs.slate_size
        change = log_ratio(logp, inputs.logp_old, mask).sum(1) / count.clamp(min=1)
        ratio = change.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()  # an item's tokens can add up to more
    old = (torch.where(mask, inputs.logp_old, 0.0).sum(1) / count.clamp(min=1)).exp()
    penalty = entropy_lambda(inputs.slate_entropy, inputs.state.get("entropy_mean", 0.0), options.entropy_beta)
    bound = torch.where(
        advantage < 0, negative_bound(ratio.detach(), old, penalty, options), positive_bound(ratio.detach(), options)
    )
    loss = (-(ratio / bound) * advantage).unsqueeze(1).expand_as(logp)
    bounded = ((bound != 1) & (advantage != 0)).unsqueeze(1).expand_as(logp)
    value, report = total(loss, logp, inputs, options, bounded=bounded)
    return value, report | {"entropy_lambda": (penalty * length).sum().detach()}


def positive_bound(ratio: Tensor, options: SageOptions) -> Tensor:
    """[N] Phi where the advantage is not negative (eq. 2)."""
    if options.pos_bound == "printed":
        return torch.where(ratio > 1 + options.boost, 1 / (1 + options.boost), 1.0).to(ratio)
    return (ratio / (1 + options.boost)).clamp(min=1)


def negative_bound(ratio: Tensor, old: Tensor, penalty: Tensor, options: SageOptions) -> Tensor:
    """[N] Phi where the advantage is negative (eq. 3).

    Args:
        ratio: [N] p / p_old, without a gradient.
        old: [N] p_old.
        penalty: [N] lambda.
    """
    kinds = {
        "gbpo_prob": lambda: odds_bound(ratio, old, penalty),
        "ratio_cap": lambda: (ratio / penalty).clamp(min=1),
        "ratio_floor": lambda: ((1 - ratio) / (options.floor * penalty)).clamp(min=1),
        "scale": lambda: ratio.clamp(min=1) / penalty,
        "printed": lambda: ((1 - ratio) / penalty).clamp(min=1),
    }
    return kinds[options.neg_bound]()


def entropy_lambda(entropy: Tensor, mean: float, beta: float) -> Tensor:
    """[N] lambda of slate entropies (eq. 4); 1 where a slate has none, which is a failure of format."""
    return 1 + beta * torch.tanh((mean - entropy).clamp(min=0)).nan_to_num()


def observe(state: State, entropy: Tensor, options: SageOptions) -> State:
    """The moving average before this rollout, and what it becomes with it; at the first it is the rollout's own mean.

    Args:
        entropy: [B, G] slate entropies, NaN where there is none.
    """
    known = entropy[~entropy.isnan()]
    if not len(known):
        return state
    seen = float(known.mean())
    before = state.get("entropy_next", seen)
    return {
        "entropy_mean": before,
        "entropy_next": options.entropy_decay * before + (1 - options.entropy_decay) * seen,
    }


SAGE = Objective(SageOptions, sage, source="arXiv:2601.21452, eq. 1 to 6", units=rows_with_tokens, observe=observe)
