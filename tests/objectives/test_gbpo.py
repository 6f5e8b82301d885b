"""GBPO: the coefficient of the gradient, by the paper's definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_inputs import inputs_of

from recrl.objectives.gbpo import GbpoOptions, gbpo

PROBABILITY = st.floats(1e-4, 0.999)


def coefficient(new: float, old: float, advantage: float, level: str = "token") -> float:
    """What multiplies A in the gradient of a single token's objective."""
    logp = torch.tensor([[math.log(new)]], dtype=torch.double, requires_grad=True)
    before = torch.tensor([[math.log(old)]], dtype=torch.double)
    gbpo(logp, inputs_of(before, [advantage]), GbpoOptions(level=level))[0].backward()
    assert logp.grad is not None
    return -float(logp.grad) / advantage


def test_the_worked_coefficients(worked: dict[str, Any]) -> None:
    case = worked["B_gbpo"]
    assert coefficient(case["pi"], case["pi_old"], 1.0) == pytest.approx(case["pos"])
    assert coefficient(case["pi"], case["pi_old"], -1.0) == pytest.approx(case["neg"])


@settings(deadline=None)
@given(PROBABILITY, PROBABILITY, st.sampled_from(["token", "sequence", "response"]))
def test_all_levels_agree_on_one_token_and_follow_the_definition(new: float, old: float, level: str) -> None:
    ratio = new / old
    close = 1e-4 if level == "sequence" else 1e-6  # the op of the geometric mean is float32, and 1 - pi may be small
    assert coefficient(new, old, 2.0, level) == pytest.approx(min(ratio, 1), rel=close)
    assert coefficient(new, old, -0.5, level) == pytest.approx(min(ratio, new / max(1 - new, 1e-6)), rel=close)


def test_the_sequence_level_takes_geometric_means() -> None:
    old = torch.tensor([[0.2, 0.8], [0.5, 0.5]], dtype=torch.double).log()
    logp = torch.tensor([[0.3, 0.6], [0.5, 0.5]], dtype=torch.double).log().requires_grad_()
    mask = torch.tensor([[True, True], [True, False]])
    gbpo(logp, inputs_of(old, [-1.0, -1.0], mask=mask), GbpoOptions(level="sequence"))[0].backward()
    new, before = math.sqrt(0.18), math.sqrt(0.16)
    expected = min(new / before, new / (1 - new)) / 2
    torch.testing.assert_close(logp.grad, torch.tensor([[expected, expected], [1.0, 0.0]], dtype=torch.double))


def test_the_sequence_level_takes_the_mean_over_the_tokens_that_a_row_has() -> None:
    logp = torch.tensor([[0.2, 1.0, 1.0]], dtype=torch.double).log().requires_grad_()
    mask = torch.tensor([[True, False, False]])
    gbpo(logp, inputs_of(logp.detach(), [-1.0], mask=mask), GbpoOptions(level="sequence"))[0].backward()
    torch.testing.assert_close(logp.grad, torch.tensor([[0.2 / 0.8, 0.0, 0.0]], dtype=torch.double))


def test_the_response_level_is_the_gradient_of_the_cross_entropy_with_clicks() -> None:
    logp = torch.tensor([[0.3, 0.6], [0.5, 0.4]], dtype=torch.double).log().requires_grad_()
    gbpo(logp, inputs_of(logp.detach(), [0.125, -1.0]), GbpoOptions(level="response"))[0].backward()
    other = logp.detach().clone().requires_grad_()
    likelihood = other.sum(1)
    (-0.125 * likelihood[0] - torch.log1p(-likelihood[1].exp())).backward()
    torch.testing.assert_close(logp.grad, other.grad)
