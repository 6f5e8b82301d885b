"""BAPO: clip bounds that give positive advantages their share of the gradient (WooooDyy/BAPO; METHODS B-7).

    J = mean over rows of (1/T) sum_t min(r A, clip(r, c_low, c_high) A)
    share = sum of |A| r over the tokens with A > 0 that no bound holds, over the same sum of all tokens

At every optimiser step the bounds start narrow and widen, step by step, until ``share`` reaches ``positive_share`` or
both are as wide as they get. A token counts where it has a gradient: r <= c_high for A > 0, r >= c_low for A < 0.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recrl.groups import PackedGroups
from recrl.objectives.base import Objective, ObjectiveInputs, ObjectiveOptions, State, rows_with_tokens, total
from recrl.objectives.grpo import clipped


class BapoOptions(ObjectiveOptions):
    positive_share: float = Field(0.4, gt=0, lt=1)
    """Share of the gradient that positive advantages should have (the code's notes say .5)."""
    low_start: float = Field(0.6, gt=0)
    """Lower bound of the ratio at first."""
    low_end: float = Field(0.9, gt=0)
    """The highest lower bound."""
    low_step: float = Field(0.02, gt=0)
    """How far the lower bound rises at once."""
    high_start: float = Field(1.2, gt=1)
    """Upper bound of the ratio at first."""
    high_end: float = Field(3.0, gt=1)
    """The highest upper bound."""
    high_step: float = Field(0.05, gt=0)
    """How far the upper bound rises at once."""
    first: Literal["high", "low"] = "high"
    """Which bound moves to its end before the other one moves (the published code: ``low``)."""


def bapo(logp: Tensor, inputs: ObjectiveInputs, options: BapoOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """The negated objective, summed over rows, at the bounds that ``search`` found.

    Args:
        logp: [N, R] under the policy in training; the only argument that carries a gradient.
        inputs: see ``ObjectiveInputs``; ``state`` holds the bounds.

    Returns:
        See ``total``; ``clip_low`` and ``clip_high`` besides.
    """
    low = inputs.state.get("clip_low", options.low_start)
    high = inputs.state.get("clip_high", options.high_start)
    loss, bounded = clipped(logp, inputs, low, high)
    value, report = total(loss, logp, inputs, options, bounded=bounded)
    return value, report | {"clip_low": low * report["tokens"], "clip_high": high * report["tokens"]}


def ladder(options: BapoOptions) -> list[tuple[float, float]]:
    """All pairs of bounds, from the narrowest on."""
    lows = _steps(options.low_start, options.low_end, options.low_step)
    highs = _steps(options.high_start, options.high_end, options.high_step)
    if options.first == "high":
        return [(lows[0], high) for high in highs] + [(low, highs[-1]) for low in lows[1:]]
    return [(low, highs[0]) for low in lows] + [(lows[-1], high) for high in highs[1:]]


def _steps(start: float, end: float, step: float) -> list[float]:
    """From ``start`` to ``end``, both included; multiplied, not added up, so that no rounding gathers."""
    whole = int(np.floor((end - start) / step + 1e-9))
    values = [start + number * step for number in range(whole + 1)]
    return values if end - values[-1] < 1e-9 else [*values, end]


def positive_share(change: Tensor, advantage: Tensor, mask: Tensor, bounds: Tensor) -> Tensor:
    """[C] share of the gradient that positive advantages have under each of [C, 2] bounds; 1 where there is none.

    Args:
        change: [N, R] log-ratios.
        advantage: [N].
        mask: [N, R] bool.
    """
    ratio, weight = change.exp()[mask], advantage.unsqueeze(1).expand_as(change)[mask]
    pull = ratio * weight.abs()
    up = torch.where((weight > 0) & (ratio <= bounds[:, 1:]), pull, 0.0).sum(1)
    down = torch.where((weight < 0) & (ratio >= bounds[:, :1]), pull, 0.0).sum(1)
    return torch.where(up + down > 0, up / (up + down), 1.0)


def search(change: Tensor, rows: PackedGroups, options: BapoOptions) -> State:
    """The narrowest bounds that give positive advantages their share, else the widest."""
    pairs = torch.tensor(ladder(options), dtype=change.dtype, device=change.device)
    # A bound that a ratio equals must not hold it for a rounding.
    slack = torch.tensor([-1e-6, 1e-6], dtype=change.dtype, device=change.device)
    enough = positive_share(change, rows.advantage, rows.mask, pairs + slack) >= options.positive_share
    place = torch.where(enough.any(), enough.to(torch.uint8).argmax(), len(pairs) - 1)
    low, high = pairs[place].tolist()
    return {"clip_low": low, "clip_high": high}


BAPO = Objective(BapoOptions, bapo, source="WooooDyy/BAPO", units=rows_with_tokens, adapt=search)
