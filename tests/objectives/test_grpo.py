"""GRPO's loss: worked numbers, who carries a gradient, averages, and what masks hide."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from objective_inputs import inputs_of, rows_of

from recrl.objectives.base import k3
from recrl.objectives.grpo import GRPO, GrpoOptions, grpo, units


def one_token(ratio: float, advantage: float, **options: float) -> tuple[float, float]:
    """The objective (not the loss) of a single token, and the gradient of its log-probability."""
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.double, requires_grad=True)
    loss, _ = grpo(logp, inputs_of(torch.zeros_like(logp), [advantage]), GrpoOptions(**options))
    loss.backward()
    assert logp.grad is not None
    return -float(loss.detach()), float(logp.grad)


def test_the_clip_of_the_worked_cases(worked: dict[str, Any]) -> None:
    for case in worked["B_ppo_clip"]:
        value, gradient = one_token(case["r"], case["A"], clip_low=case["lo"], clip_high=case["hi"])
        assert value == pytest.approx(case["obj"], abs=1e-9)
        assert (gradient != 0) == case["grad_active"]


def test_the_k3_estimate_of_the_worked_case(worked: dict[str, Any]) -> None:
    reference = torch.zeros(1, 1, dtype=torch.double)
    value = k3(reference + 0.5, reference, torch.ones(1, 1, dtype=torch.bool))
    assert float(value) == pytest.approx(worked["B_k3"], abs=1e-9)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(2.0, -1.0, -2.0), (5.0, -1.0, -3.0), (5.0, -2.0, -6.0), (5.0, 1.0, 1.2), (0.5, -1.0, -0.8)],
)
def test_dual_clip_bounds_negative_advantages_alone(ratio: float, advantage: float, expected: float) -> None:
    value, gradient = one_token(ratio, advantage, dual_clip=3.0)
    assert value == pytest.approx(expected)
    assert (gradient != 0) == (expected == -2.0)


def test_without_dual_clip_a_negative_advantage_has_no_bound() -> None:
    assert one_token(5.0, -1.0)[0] == pytest.approx(-5.0)


def test_rows_of_length_one_and_three_give_the_worked_means() -> None:
    """papers.md B-6: per-token terms 1 and 2 -> token mean 7 / 4, row mean 1.5."""
    logp = torch.zeros(2, 3)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    for average, total, count in (("token", 7.0, 4), ("row", 3.0, 2), ("sum", 7.0, 2)):
        options = GrpoOptions(average=average)  # type: ignore[arg-type]
        loss, _ = grpo(logp, inputs_of(logp, [-1.0, -2.0], mask=mask), options)  # ratio 1: the term is -A
        assert float(loss) == pytest.approx(total)
        divisor = units(rows_of(logp, [-1.0, -2.0], mask=mask), options)
        assert int(divisor) == count
        assert float(loss / divisor) == pytest.approx({"token": 1.75, "row": 1.5, "sum": 3.5}[average])


def test_a_row_without_tokens_is_no_unit() -> None:
    nothing = rows_of(torch.zeros(1, 2), [1.0], mask=torch.zeros(1, 2, dtype=torch.bool))
    assert int(units(nothing, GrpoOptions(average="token"))) == 1  # a divisor
    mask = torch.tensor([[True, True], [False, False]])
    assert int(units(rows_of(torch.zeros(2, 2), [1.0, 5.0], mask=mask), GrpoOptions())) == 1
    logp = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss, report = grpo(logp, inputs_of(torch.zeros(2, 2), [1.0, 5.0], mask=mask), GrpoOptions())
    loss.backward()
    assert torch.isfinite(loss)
    assert logp.grad is not None
    assert (logp.grad[1] == 0).all()
    assert int(report["tokens"]) == 2


@pytest.mark.parametrize("average", ["row", "token"])
@pytest.mark.parametrize("dual_clip", [0.0, 3.0])
def test_the_gradient_is_that_of_finite_differences(average: str, dual_clip: float) -> None:
    generator = torch.Generator().manual_seed(3)
    logp = torch.randn(6, 4, generator=generator, dtype=torch.double) * 0.6
    old, ref = (torch.randn(6, 4, generator=generator, dtype=torch.double) * 0.6 for _ in range(2))
    mask = torch.rand(6, 4, generator=generator) < 0.7
    given = inputs_of(old, [1.0, -1.0, 0.3, -2.0, 0.0, 0.7], mask=mask, ref=ref)
    options = GrpoOptions(kl_beta=0.3, dual_clip=dual_clip, average=average)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(lambda x: grpo(x, given, options)[0], logp.requires_grad_(True))


def test_the_loss_by_hand_with_a_kl_term() -> None:
    logp, old, ref = (torch.tensor([[value]], dtype=torch.double) for value in (math.log(1.1), 0.0, 0.2))
    loss, report = grpo(logp, inputs_of(old, [2.0], ref=ref), GrpoOptions(kl_beta=0.5))
    difference = 0.2 - math.log(1.1)
    divergence = math.exp(difference) - difference - 1
    assert float(loss) == pytest.approx(-2.2 + 0.5 * divergence)
    assert float(report["kl_loss"]) == pytest.approx(divergence)
    assert float(report["ppo_kl"]) == pytest.approx(-math.log(1.1))
    assert float(report["clip_ratio"]) == 0


def test_the_report_counts_clipped_tokens() -> None:
    logp = torch.tensor([[1.5, 1.1, 0.5], [1.5, 0.5, 1.0]]).log()
    mask = torch.tensor([[True, True, True], [True, True, False]])
    _, report = grpo(logp, inputs_of(torch.zeros(2, 3), [1.0, -1.0], mask=mask), GrpoOptions())
    assert int(report["clip_ratio"]) == 2  # 1.5 up under A = 1, .5 down under A = -1
    assert int(report["tokens"]) == 5
    assert not any(value.requires_grad for value in report.values())


def test_minus_infinity_behind_the_mask_gives_no_nan() -> None:
    nothing = -math.inf
    logp = torch.tensor([[-1.0, nothing, nothing]], requires_grad=True)
    old, ref = torch.tensor([[-1.0, nothing, -2.0]]), torch.tensor([[-1.0, -3.0, nothing]])
    mask = torch.tensor([[True, False, False]])
    loss, report = grpo(logp, inputs_of(old, [1.0], mask=mask, ref=ref), GrpoOptions(kl_beta=0.1))
    loss.backward()
    assert float(loss.detach()) == -1
    assert logp.grad is not None
    assert logp.grad.tolist() == [[-1.0, 0.0, 0.0]]
    assert all(torch.isfinite(value) for value in report.values())


def test_huge_ratios_stay_finite() -> None:
    logp = torch.tensor([[500.0], [-500.0]], requires_grad=True)
    given = inputs_of(torch.zeros(2, 1), [-1.0, 1.0], ref=torch.zeros(2, 1))
    loss, _ = grpo(logp, given, GrpoOptions(kl_beta=1.0))
    loss.backward()
    assert torch.isfinite(loss)
    assert logp.grad is not None
    assert torch.isfinite(logp.grad).all()


def test_the_table_holds_this_loss() -> None:
    assert GRPO.run is grpo
    assert GRPO.units is units
