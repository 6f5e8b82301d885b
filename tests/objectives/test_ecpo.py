"""ECPO: the cap on the ratio, and the clip that follows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_inputs import inputs_of

from recrl.objectives.ecpo import EcpoOptions, ecpo
from recrl.objectives.grpo import GrpoOptions, grpo


def one_token(ratio: float, advantage: float) -> tuple[float, float]:
    """The objective of a single token, and its gradient."""
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.double, requires_grad=True)
    loss, _ = ecpo(logp, inputs_of(torch.zeros_like(logp), [advantage]), EcpoOptions())
    loss.backward()
    assert logp.grad is not None
    return -float(loss.detach()), -float(logp.grad)


def test_the_worked_ratio(worked: dict[str, Any]) -> None:
    case = worked["B_ecpo"]
    value, gradient = one_token(case["pi"] / case["pi_old"], -1.0)
    assert value == pytest.approx(-case["ratio"])
    assert gradient == pytest.approx(-case["ratio"])


@settings(deadline=None)
@given(st.floats(0.01, 1.29), st.sampled_from([-1.5, 1.0]))
def test_below_the_cap_it_is_ppos_clip(ratio: float, advantage: float) -> None:
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.double)
    given_ = inputs_of(torch.zeros_like(logp), [advantage])
    assert one_token(ratio, advantage)[0] == pytest.approx(-float(grpo(logp, given_, GrpoOptions())[0]))


@settings(deadline=None)
@given(st.floats(1.31, 50.0))
def test_above_the_cap_positives_are_clipped_and_negatives_bounded(ratio: float) -> None:
    assert one_token(ratio, 1.0) == pytest.approx((1.2, 0.0))
    assert one_token(ratio, -1.0) == pytest.approx((-1.3, -1.3))


def test_the_report_counts_what_the_cap_or_the_clip_holds() -> None:
    logp = torch.tensor([[1.25, 3.0, 0.5]] * 3).log()
    _, report = ecpo(logp, inputs_of(torch.zeros_like(logp), [1.0, -1.0, 0.0]), EcpoOptions())
    assert int(report["clip_ratio"]) == 4  # 1.25 and 3 up, 3 and .5 down; nothing where the advantage is 0
