"""What an objective is.

A loss is a sum over rows; the training step divides once, by the units of the whole mini-batch, so that any cut into
micro-batches gives the same gradient. Letters: N rows, R tokens a response.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from recrl.groups.packed import PackedGroups
from recrl.kernels.ops import Ops
from recrl.parts import Options, Part

State = Mapping[str, float]

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this before ``exp`` (papers.md, rule 2)."""


class ObjectiveOptions(Options):
    kl_beta: float = Field(0.0, ge=0)
    """Weight of the KL term to the reference; 0 leaves the reference out of the run."""


@dataclass(frozen=True)
class ObjectiveInputs:
    """What a loss sees besides the log-probabilities in training.

    Attributes:
        logp_old: [N, R] under the policy that made the rollout.
        logp_ref: [N, R] under the reference, None where the run has none.
        advantage: [N].
        mask: [N, R] bool.
        ops: the kernels of the run.
        prompt_of: [N] prompt of every row, ascending; all rows of a prompt are here together.
        slate_size: [N] items that the row names.
        slate_entropy: [N] entropy of their categories in nats, NaN where it names none.
        state: what ``Objective.observe`` and ``Objective.adapt`` returned.
    """

    logp_old: Tensor
    logp_ref: Tensor | None
    advantage: Tensor
    mask: Tensor
    ops: Ops
    prompt_of: Tensor
    slate_size: Tensor
    slate_entropy: Tensor
    state: State = field(default_factory=dict)

    @classmethod
    def of(cls, rows: PackedGroups, logp: Tensor, ops: Ops, state: State) -> ObjectiveInputs:
        """The inputs of some rows; without old log-probabilities the present ones stand for them."""
        old = logp.detach() if rows.logp_old is None else rows.logp_old
        return cls(
            old, rows.logp_ref, rows.advantage, rows.mask, ops,
            rows.prompt_of, rows.slate_size, rows.slate_entropy, state,
        )  # fmt: skip


def _weighs_kl(options: ObjectiveOptions) -> bool:
    return options.kl_beta > 0


@dataclass(frozen=True, kw_only=True)
class Objective(Part):
    """A loss ``run(logp, inputs, options) -> (sum, report)`` and the number that the sum is divided by.

    ``report`` holds sums over tokens (keys of ``actor/``), ``tokens`` among them.

    Attributes:
        units: ``(rows of an optimiser step, options)`` -> that number, at least 1.
        needs_reference: ``options`` -> whether the loss reads the reference.
        observe: once a rollout ``(state, [B, G] slate entropies, options)`` -> the state that its losses see, and that
            comes back at the next rollout; checkpoints hold it.
        adapt: once an optimiser step ``(log-ratio [N, R], rows, options)`` -> what only all rows together tell; it goes
            on top of the state for that step.
    """

    units: Callable[[PackedGroups, Any], Tensor]
    needs_reference: Callable[[Any], bool] = _weighs_kl
    observe: Callable[[State, Tensor, Any], State] | None = None
    adapt: Callable[[Tensor, PackedGroups, Any], State] | None = None


Average = Literal["row", "token", "sum"]


def rows_with_tokens(rows: PackedGroups, options: Any) -> Tensor:  # noqa: ARG001
    """The units of a mean over rows."""
    return rows.mask.any(1).sum().clamp(min=1)


def total(
    per_token: Tensor,
    logp: Tensor,
    inputs: ObjectiveInputs,
    options: ObjectiveOptions,
    *,
    bounded: Tensor,
    average: Average = "row",
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of a loss with its KL term, and what every loss reports.

    Args:
        per_token: [N, R] terms of the loss; one of a whole row stands at each of its tokens.
        logp: [N, R] under the policy in training.
        bounded: [N, R] bool, where a bound holds the term; masked places do not count.
        average: ``row`` and ``sum`` sum over rows the means, or the sums, of their tokens; ``token`` sums over tokens.

    Returns:
        The sum, and ``token_sums``.
    """
    mask = inputs.mask
    if inputs.logp_ref is not None:
        per_token = per_token + options.kl_beta * k3(logp, inputs.logp_ref, mask)
    per_token = torch.where(mask, per_token, 0.0)
    if average == "row":
        per_token = per_token / mask.sum(1, keepdim=True).clamp(min=1)
    return per_token.sum(), token_sums(logp, inputs, bounded)


@torch.no_grad()
def token_sums(logp: Tensor, inputs: ObjectiveInputs, bounded: Tensor) -> dict[str, Tensor]:
    """What every loss reports: ``clip_ratio``, ``ppo_kl`` (k1, nats), ``tokens``; ``kl_loss`` (k3, nats) with a
    reference.
    """
    mask = inputs.mask
    sums = {
        "clip_ratio": (bounded & mask).sum(),
        "ppo_kl": -log_ratio(logp, inputs.logp_old, mask).sum(),
        "tokens": mask.sum(),
    }
    if inputs.logp_ref is not None:
        sums["kl_loss"] = k3(logp, inputs.logp_ref, mask).sum()  # 0 where masked: so is the log-ratio
    return sums


def log_ratio(logp: Tensor, base: Tensor, mask: Tensor) -> Tensor:
    """[N, R] ``logp - base``, 0 where masked and clamped elsewhere: safe to exponentiate."""
    return torch.where(mask, logp - base, 0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def near(logp: Tensor, logp_old: Tensor) -> Tensor:
    """[N, R] ``logp``, at most ``MAX_LOG_RATIO`` from ``logp_old``: rule 2 for ops that take both."""
    return logp_old + (logp - logp_old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def k3(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    """[N, R] low-variance estimate of KL(policy || reference) (papers.md B-4), clamped to 10 as in verl."""
    difference = log_ratio(logp_ref, logp, mask)
    return (difference.exp() - difference - 1).clamp(max=10.0)
