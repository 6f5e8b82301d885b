"""BAPO: clip bounds that give positive advantages their share of the gradient (WooooDyy/BAPO; papers.md B-7).

    J = mean over rows of (1/T) sum_t min(r A, clip(r, c_low, c_high) A)
    share = sum of |A| r over the tokens with A > 0 that no bound holds, over the same sum of all tokens

At every optimiser step the bounds start at their lowest and rise, step by step, until ``share`` reaches
``positive_share`` or both are at their end. A higher c_high lets more positives pull, a higher c_low fewer negatives: a
token has a gradient where r <= c_high (A > 0) or r >= c_low (A < 0).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from recrl.groups.packed import PackedGroups
from recrl.objectives.base import Objective, ObjectiveInputs, ObjectiveOptions, State, rows_with_tokens, total
from recrl.objectives.grpo import clipped

ShareKind = Literal["active", "literal"]


class BapoOptions(ObjectiveOptions):
    positive_share: float = Field(0.4, gt=0, lt=1)
    """Share of the gradient that positive advantages should have (the published code: .5)."""
    share: ShareKind = "active"
    """What a token counts in the share: its part of the gradient, or of the clipped objective. That part can't grow
    with ``c_low``, since a negative that is held still counts."""
    low_start: float = Field(0.6, gt=0)
    """Lower bound of the ratio at first."""
    low_end: float = Field(0.9, gt=0, le=1)
    """The highest lower bound."""
    low_step: float = Field(0.02, gt=0)
    """How far the lower bound rises at once (the published code: .05)."""
    high_start: float = Field(1.2, ge=1)
    """Upper bound of the ratio at first."""
    high_end: float = Field(3.0, ge=1)
    """The highest upper bound."""
    high_step: float = Field(0.05, gt=0)
    """How far the upper bound rises at once."""
    first: Literal["high", "low"] = "high"
    """Which bound moves to its end before the other one moves (the published code: ``low``)."""

    @model_validator(mode="after")
    def _bounds_rise(self) -> BapoOptions:
        if self.low_start > self.low_end:
            raise ValueError(f"low_start = {self.low_start} is above low_end = {self.low_end}; bounds only rise")
        if self.high_start > self.high_end:
            raise ValueError(f"high_start = {self.high_start} is above high_end = {self.high_end}; bounds only rise")
        return self


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
    """All pairs of bounds, in the order in which they are tried."""
    lows = _steps(options.low_start, options.low_end, options.low_step)
    highs = _steps(options.high_start, options.high_end, options.high_step)
    if options.first == "high":
        return [(lows[0], high) for high in highs] + [(low, highs[-1]) for low in lows[1:]]
    return [(low, highs[0]) for low in lows] + [(lows[-1], high) for high in highs[1:]]


def _steps(start: float, end: float, step: float) -> list[float]:
    """From ``start`` to ``end``, both included; multiplied, not added up, so that no rounding gathers."""
    whole = math.floor((end - start) / step + 1e-9)
    values = [start + number * step for number in range(whole + 1)]
    return values if end - values[-1] < 1e-9 else [*values, end]


def positive_share(
    change: Tensor, advantage: Tensor, mask: Tensor, bounds: Tensor, kind: ShareKind = "active"
) -> Tensor:
    """[C] share that positive advantages have under each of [C, 2] bounds.

    Where nothing counts it is 0 if there are positives, all held, that a higher bound would free; else 1.

    Args:
        change: [N, R] log-ratios.
        advantage: [N].
        mask: [N, R] bool.
    """
    low, high = bounds[:, :1], bounds[:, 1:]
    ratio, weight = change.exp()[mask], advantage.unsqueeze(1).expand_as(change)[mask]
    if kind == "active":
        up, down = torch.where(ratio <= high, ratio, 0.0), torch.where(ratio >= low, ratio, 0.0)
    else:  # min(r A, clip(r) A) is A times this
        up, down = torch.minimum(ratio, high), torch.maximum(ratio, low)
    rising = (up * weight.clamp(min=0)).sum(1)
    both = rising + (down * -weight.clamp(max=0)).sum(1)
    return torch.where(both > 0, rising / both, 1.0 - (weight > 0).any().to(both))


def search(change: Tensor, rows: PackedGroups, options: BapoOptions) -> State:
    """The first bounds that give positive advantages their share, else the last."""
    pairs = ladder(options)
    bounds = torch.tensor(pairs, dtype=change.dtype, device=change.device)
    # A bound that a ratio equals must not hold it for a rounding.
    slack = torch.tensor([-1e-6, 1e-6], dtype=change.dtype, device=change.device)
    share = positive_share(change, rows.advantage, rows.mask, bounds + slack, options.share)
    enough = (share >= options.positive_share).tolist()
    low, high = pairs[enough.index(True) if any(enough) else -1]
    return {"clip_low": low, "clip_high": high}


BAPO = Objective(BapoOptions, bapo, source="WooooDyy/BAPO", units=rows_with_tokens, adapt=search)
