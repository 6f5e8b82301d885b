"""What an objective is.

A loss is a sum over rows; the training step divides once, by the units of the whole mini-batch, so that any cut into
micro-batches gives the same gradient. Letters: N rows, R tokens a response.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from recrl.components import Options, Part
from recrl.kernels.ops import Ops

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this before ``exp`` (METHODS, rule 2)."""


class ObjectiveOptions(Options):
    kl_beta: float = Field(0.0, ge=0)
    """Weight of the KL term to the reference; 0 leaves the reference out of the run."""


@dataclass(frozen=True)
class ObjectiveInputs:
    """What a loss sees besides the log-probabilities in training.

    Attributes:
        logp_old: [N, R] under the policy that made the rollout.
        logp_ref: [N, R] under the reference, None where ``kl_beta`` is 0.
        advantage: [N].
        mask: [N, R] bool.
        ops: the kernels of the run.
    """

    logp_old: Tensor
    logp_ref: Tensor | None
    advantage: Tensor
    mask: Tensor
    ops: Ops


@dataclass(frozen=True, kw_only=True)
class Objective(Part):
    """A loss ``run(logp, inputs, options) -> (sum, report)`` and the number that the sum is divided by.

    ``units`` maps a mini-batch's mask to that number; ``report`` holds sums over tokens (keys of ``actor/``).
    """

    units: Callable[[Tensor, Any], Tensor]


def log_ratio(logp: Tensor, base: Tensor, mask: Tensor) -> Tensor:
    """[N, R] ``logp - base``, 0 where masked and clamped elsewhere: safe to exponentiate."""
    return torch.where(mask, logp - base, 0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def k3(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    """[N, R] low-variance estimate of KL(policy || reference) (METHODS B-4); the value is clamped to 10 as in verl."""
    difference = log_ratio(logp_ref, logp, mask)
    return (difference.exp() - difference - 1).clamp(max=10.0)
