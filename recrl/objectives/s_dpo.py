"""S-DPO: one preferred response against several, by a softmax over the negatives (chenyuxin1999/S-DPO; papers.md B-9).

    L = mean over prompts of log(1 + sum_d exp(beta (Delta_d - Delta_w)))
    Delta = sum_t(logp - logp_ref) of a response

w is the response with the largest positive advantage (the first of equal ones), d are those with a negative one. A
prompt without both adds nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recrl.groups.packed import PackedGroups
from recrl.objectives.base import Objective, ObjectiveInputs, log_ratio, token_sums
from recrl.parts import Options


class SDpoOptions(Options):
    beta: float = Field(0.1, gt=0)
    """How sharply a difference of log-probabilities is a preference."""


def s_dpo(logp: Tensor, inputs: ObjectiveInputs, options: SDpoOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, summed over prompts.

    Args:
        logp: [N, R] under the policy in training; the only argument that carries a gradient.
        inputs: see ``ObjectiveInputs``; needs ``logp_ref``.

    Returns:
        The sum, and ``token_sums`` with ``preferred`` besides: tokens of the prompts whose preferred response gained
        more on the reference than all that stand against it.
    """
    assert inputs.logp_ref is not None, "the run has no reference"
    mask, of = inputs.mask, inputs.prompt_of
    prompts = int(of[-1]) + 1 if len(of) else 0
    winner, worse, complete = pairs(inputs.advantage, mask, of, prompts)
    gain = log_ratio(logp, inputs.logp_ref, mask).sum(1)
    behind = torch.where(worse, options.beta * (gain - gain[winner[of]]), float("-inf"))
    loss = torch.where(complete, F.softplus(_logsumexp(behind, of, prompts)), 0.0)
    ahead = complete & (_peak(behind, of, prompts) < 0)
    report = token_sums(logp, inputs, bounded=torch.zeros_like(mask))
    return loss.sum(), report | {"preferred": (mask & ahead[of].unsqueeze(1)).sum()}


def pairs(advantage: Tensor, mask: Tensor, of: Tensor, prompts: int) -> tuple[Tensor, Tensor, Tensor]:
    """[prompts] preferred row (0 without one), [N] bool rows against it, [prompts] bool where there are both."""
    real = mask.any(1)
    better, worse = real & (advantage > 0), real & (advantage < 0)
    best = advantage.new_zeros(prompts).scatter_reduce(0, of, torch.where(better, advantage, 0.0), "amax")
    row = torch.arange(len(of), device=of.device)
    first = torch.where(better & (advantage == best[of]), row, len(of))
    winner = of.new_full((prompts,), len(of)).scatter_reduce(0, of, first, "amin")
    losers = torch.zeros(prompts, dtype=torch.long, device=of.device).scatter_add(0, of, worse.long())
    complete = (winner < len(of)) & (losers > 0)
    return torch.where(complete, winner, 0), worse & complete[of], complete


def _logsumexp(value: Tensor, of: Tensor, prompts: int) -> Tensor:
    """[prompts] log of the sum of exp over the rows of a prompt; 0 where all are -inf, which nothing reads."""
    peak = _peak(value, of, prompts)
    peak = torch.where(peak.isinf(), 0.0, peak)
    share = (value - peak[of]).exp()
    summed = torch.zeros_like(peak).scatter_add(0, of, share)
    return peak + torch.where(summed > 0, summed, 1.0).log()


def _peak(value: Tensor, of: Tensor, prompts: int) -> Tensor:
    """[prompts] largest of a prompt's values, -inf where it has none; without a gradient."""
    return value.detach().new_full((prompts,), float("-inf")).scatter_reduce(0, of, value.detach(), "amax")


def units(rows: PackedGroups, options: SDpoOptions) -> Tensor:  # noqa: ARG001
    """Prompts that have a preferred response and one to stand against it."""
    return pairs(rows.advantage, rows.mask, rows.prompt_of, len(rows.prompts))[2].sum().clamp(min=1)


S_DPO = Objective(
    SDpoOptions,
    s_dpo,
    source="chenyuxin1999/S-DPO",
    units=units,
    needs_reference=lambda options: True,  # noqa: ARG005
)
