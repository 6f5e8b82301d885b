"""BAPO: the share of the gradient that positives have, and the search for bounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from objective_inputs import inputs_of, rows_of

from recrl.objectives.bapo import BapoOptions, bapo, ladder, positive_share, search
from recrl.objectives.grpo import GrpoOptions, grpo

RATIO = torch.tensor([[1.6], [1.0], [0.7], [1.1]], dtype=torch.double)
ADVANTAGE = [1.0, -1.0, -1.0, -1.0]


def test_the_worked_shares(worked: dict[str, Any]) -> None:
    bounds = torch.tensor([[0.6, 1.2], [0.6, 3.0], [0.9, 3.0]], dtype=torch.double)
    mask = torch.ones_like(RATIO, dtype=torch.bool)
    shares = positive_share(RATIO.log(), torch.tensor(ADVANTAGE, dtype=torch.double), mask, bounds)
    expected = [worked["B_bapo"][name]["gradient_active"] for name in ("lo0.6_hi1.2", "lo0.6_hi3.0", "lo0.9_hi3.0")]
    assert shares.tolist() == pytest.approx(expected)


def test_the_upper_bound_moves_first_and_then_the_lower_one() -> None:
    pairs = ladder(BapoOptions())
    assert pairs[0] == (0.6, 1.2)
    assert pairs[36] == pytest.approx((0.6, 3.0))
    assert pairs[37] == pytest.approx((0.62, 3.0))
    assert pairs[-1] == pytest.approx((0.9, 3.0))
    assert len(pairs) == 37 + 15
    other = ladder(BapoOptions(first="low"))
    assert other[15] == pytest.approx((0.9, 1.2))
    assert other[-1] == pytest.approx((0.9, 3.0))


def test_the_search_stops_at_the_first_bounds_that_do() -> None:
    rows = rows_of(torch.zeros_like(RATIO), ADVANTAGE)
    found = search(RATIO.log(), rows, BapoOptions())
    # 1.6 is inside from 1.6 on; then the lower bound must pass .7 for the share to rise from .36 to .43.
    assert found == pytest.approx({"clip_low": 0.72, "clip_high": 3.0})
    found = search(RATIO.log(), rows, BapoOptions(positive_share=0.3))
    assert found == pytest.approx({"clip_low": 0.6, "clip_high": 1.6})
    found = search(RATIO.log(), rows, BapoOptions(positive_share=0.9))
    assert found == pytest.approx({"clip_low": 0.9, "clip_high": 3.0})


def test_without_any_gradient_the_bounds_stay_narrow() -> None:
    rows = rows_of(torch.zeros_like(RATIO), [0.0] * 4)
    assert search(RATIO.log(), rows, BapoOptions()) == pytest.approx({"clip_low": 0.6, "clip_high": 1.2})


def test_the_loss_is_ppos_at_the_bounds_that_were_found() -> None:
    given = inputs_of(torch.zeros_like(RATIO), ADVANTAGE, state={"clip_low": 0.7, "clip_high": 1.5})
    loss, report = bapo(RATIO.log(), given, BapoOptions())
    expected, _ = grpo(RATIO.log(), given, GrpoOptions(clip_low=0.3, clip_high=0.5))
    torch.testing.assert_close(loss, expected)
    assert float(report["clip_high"]) == pytest.approx(1.5 * 4)
