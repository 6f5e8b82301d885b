"""GSPO: the worked ratio, the clip, and the gradient against finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from objective_inputs import inputs_of, rows_of

from recrl.objectives.gspo import GSPO, GspoOptions, gspo


def test_the_worked_ratio_is_clipped_and_has_no_gradient(worked: dict[str, Any]) -> None:
    logp = torch.tensor([worked["A1_delta"]], requires_grad=True)
    loss, report = gspo(logp, inputs_of(torch.zeros_like(logp), [1.0]), GspoOptions())
    assert float(loss.detach()) == pytest.approx(-1.0004)
    loss.backward()
    assert (logp.grad == 0).all()
    assert int(report["clip_ratio"]) == 6
    wide, _ = gspo(logp, inputs_of(torch.zeros_like(logp), [1.0]), GspoOptions(clip_high=1.0))
    assert float(wide.detach()) == pytest.approx(-worked["A1_r_token"], rel=1e-5)


def test_a_clipped_row_counts_the_tokens_that_it_has() -> None:
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    logp = torch.tensor([[0.5, 0.5, 9.0, 9.0], [0.0, 0.0, 0.0, 9.0]])
    _, report = gspo(logp, inputs_of(torch.zeros(2, 4), [1.0, 1.0], mask=mask), GspoOptions())
    assert int(report["clip_ratio"]) == 2  # of 5: the first row is clipped, the second has ratio 1
    assert int(report["tokens"]) == 5


def test_the_gradient_is_the_finite_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(4, 3, generator=generator)
    ref = old + 0.2 * torch.randn(4, 3, generator=generator)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    given = inputs_of(old, [1.0, -2.0, 0.5, 3.0], mask=mask, ref=ref)
    options = GspoOptions(clip_low=0.3, clip_high=0.3, kl_beta=0.1)
    logp = (old + 0.05).requires_grad_()
    gspo(logp, given, options)[0].backward()
    step = 1e-2
    for row in range(4):
        for place in range(3):
            change = torch.zeros_like(old)
            change[row, place] = step
            high, low = (float(gspo((logp + sign * change).detach(), given, options)[0]) for sign in (1, -1))
            assert float(logp.grad[row, place]) == pytest.approx((high - low) / (2 * step), abs=2e-4)


def test_a_row_without_tokens_adds_nothing() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    loss, report = gspo(torch.zeros(2, 2), inputs_of(torch.zeros(2, 2), [1.0, 5.0], mask=mask), GspoOptions())
    assert float(loss) == -1.0
    assert int(GSPO.units(rows_of(torch.zeros(2, 2), [1.0, 5.0], mask=mask), GspoOptions())) == 1
    assert int(report["tokens"]) == 2
