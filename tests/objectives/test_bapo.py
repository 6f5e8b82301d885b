"""BAPO: the share of the gradient that positives have, and the search for bounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from objective_inputs import inputs_of, rows_of
from pydantic import ValidationError

from recrl.objectives.bapo import BapoOptions, ShareKind, bapo, ladder, positive_share, search
from recrl.objectives.grpo import GrpoOptions, grpo

RATIO = torch.tensor([[1.6], [1.0], [0.7], [1.1]], dtype=torch.double)
ADVANTAGE = [1.0, -1.0, -1.0, -1.0]


@pytest.mark.parametrize(("kind", "name"), [("active", "gradient_active"), ("literal", "literal")])
def test_the_worked_shares(worked: dict[str, Any], kind: ShareKind, name: str) -> None:
    bounds = torch.tensor([[0.6, 1.2], [0.6, 3.0], [0.9, 3.0]], dtype=torch.double)
    mask = torch.ones_like(RATIO, dtype=torch.bool)
    shares = positive_share(RATIO.log(), torch.tensor(ADVANTAGE, dtype=torch.double), mask, bounds, kind)
    expected = [worked["B_bapo"][bound][name] for bound in ("lo0.6_hi1.2", "lo0.6_hi3.0", "lo0.9_hi3.0")]
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


def test_the_literal_share_is_reached_by_the_upper_bound_or_not_at_all() -> None:
    rows = rows_of(torch.zeros_like(RATIO), ADVANTAGE)
    found = search(RATIO.log(), rows, BapoOptions(share="literal", positive_share=0.35))
    assert found == pytest.approx({"clip_low": 0.6, "clip_high": 1.55})  # 1.55 / (1.55 + 2.8) = .356
    found = search(RATIO.log(), rows, BapoOptions(share="literal", positive_share=0.37))
    assert found == pytest.approx({"clip_low": 0.9, "clip_high": 3.0})


def test_positives_that_are_all_held_are_set_free() -> None:
    rows = rows_of(torch.zeros(1, 1), [1.0])
    found = search(torch.tensor([[1.6]]).log(), rows, BapoOptions())
    assert found == pytest.approx({"clip_low": 0.6, "clip_high": 1.6})


def test_a_ratio_that_equals_a_bound_is_inside_whatever_its_rounding() -> None:
    rows = rows_of(torch.zeros(2, 1), [1.0, -1.0])
    for low, high in ladder(BapoOptions())[:37]:
        change = torch.tensor([[high], [1.0]]).log()
        assert search(change, rows, BapoOptions()) == {"clip_low": low, "clip_high": high}


def test_masked_tokens_do_not_count() -> None:
    change = torch.tensor([[1.6, 100.0], [1.0, 100.0]], dtype=torch.double).log()
    mask = torch.tensor([[True, False], [True, False]])
    bounds = torch.tensor([[0.6, 2.0]], dtype=torch.double)
    share = positive_share(change, torch.tensor([1.0, -1.0], dtype=torch.double), mask, bounds)
    assert share.tolist() == pytest.approx([1.6 / 2.6])


@pytest.mark.parametrize("given", [{"low_start": 0.95}, {"high_start": 4.0}])
def test_bounds_that_would_have_to_fall_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="bounds only rise"):
        BapoOptions(**given)  # type: ignore[arg-type]


def test_the_loss_is_ppos_at_the_bounds_that_were_found() -> None:
    given = inputs_of(torch.zeros_like(RATIO), ADVANTAGE, state={"clip_low": 0.7, "clip_high": 1.5})
    ours, theirs = RATIO.log().requires_grad_(), RATIO.log().requires_grad_()
    loss, report = bapo(ours, given, BapoOptions())
    expected, _ = grpo(theirs, given, GrpoOptions(clip_low=0.3, clip_high=0.5))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert float(report["clip_high"]) == pytest.approx(1.5 * 4)
    assert float(report["clip_low"]) == pytest.approx(0.7 * 4)
