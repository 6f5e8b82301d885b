"""SAGE: the ratio, both bounds, the entropy penalty, and the gradient, by papers.md A."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_inputs import inputs_of

from recrl.groups.rollout import slate_entropy
from recrl.objectives.gbpo import GbpoOptions, gbpo
from recrl.objectives.sage import SageOptions, entropy_lambda, observe, sage

RATIO = st.floats(0.02, 20.0)
NEG_BOUNDS = ["gbpo_prob", "ratio_cap", "ratio_floor", "scale", "printed"]


def coefficient(ratio: float, old: float, advantage: float, penalty: float = 1.0, **options: Any) -> float:
    """What multiplies A in the gradient of a single token's objective; ``penalty`` is lambda, at most 1.5."""
    # With mean H = 20 and H = 20 - x, lambda is 1 + .5 tanh(x).
    entropy = 20 - math.atanh(min((penalty - 1) / 0.5, 1 - 1e-15))
    before = torch.tensor([[math.log(old)]], dtype=torch.double)
    logp = (before + math.log(ratio)).requires_grad_()
    given_ = inputs_of(before, [advantage], slate_entropy=[entropy], state={"entropy_mean": 20.0})
    sage(logp, given_, SageOptions(**options))[0].backward()
    assert logp.grad is not None
    return -float(logp.grad) / advantage


def test_the_worked_ratios_of_tokens_and_items(worked: dict[str, Any]) -> None:
    logp = torch.tensor([worked["A1_delta"]], dtype=torch.double)
    given_ = inputs_of(torch.zeros_like(logp), [1.0], slate_size=[2])
    options = {"boost": 10.0}  # no bound
    assert -float(sage(logp, given_, SageOptions(**options))[0]) == pytest.approx(worked["A1_r_token"])
    by_item = SageOptions(divisor="item", **options)
    assert -float(sage(logp, given_, by_item)[0]) == pytest.approx(worked["A1_r_item_2x3"])


def test_the_worked_coefficients_of_positives(worked: dict[str, Any]) -> None:
    case = worked["A2"]
    for place, ratio in enumerate(case["r"]):
        assert coefficient(ratio, 1e-3, 1.0) == pytest.approx(case["used"][place])
        assert coefficient(ratio, 1e-3, 1.0, boost=0.0) == pytest.approx(case["gbpo"][place])
        # A little below, since 1.3 is the very place where the printed form jumps.
        printed = coefficient(ratio - 1e-5, 1e-3, 1.0, pos_bound="printed")
        assert printed == pytest.approx(case["printed_eq2"][place], rel=1e-4)
        without = coefficient(ratio, 1e-3, 1.0, pos_bound="printed", boost=0.0)
        assert without == pytest.approx(case["printed_eps0"][place], rel=1e-5)


def test_the_worked_coefficients_of_negatives(worked: dict[str, Any]) -> None:
    kinds = {"printed": "printed", "gbpo_prob": "prob_form", "ratio_cap": "ratio_cap", "scale": "scale"}
    for case in worked["A3_coeff"]:
        for kind, name in kinds.items():
            found = coefficient(case["r"], case["pbar_old"], -1.0, case["lam"], neg_bound=kind)
            assert found == pytest.approx(case[name]), (kind, case)


@pytest.mark.parametrize(
    ("ratio", "penalty", "expected"),
    [(0.5, 1.0, 0.2), (0.5, 1.25, 0.25), (0.78, 1.0, 0.78 * 0.2 / 0.22), (0.78, 1.25, 0.78), (2.0, 1.25, 2.0)],
)
def test_the_soft_lower_clip_acts_below_one_minus_floor_times_lambda(
    ratio: float, penalty: float, expected: float
) -> None:
    """papers.md A-3: r if r >= 1 - .2 lambda, else r .2 lambda / (1 - r)."""
    assert coefficient(ratio, 1e-3, -1.0, penalty, neg_bound="ratio_floor") == pytest.approx(expected, rel=1e-5)


def test_the_worked_entropies_and_lambdas(worked: dict[str, Any]) -> None:
    slates = torch.tensor([[0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 2, 2]])
    entropy = slate_entropy(slates, torch.arange(3)).double()
    assert entropy.tolist() == pytest.approx([worked["A3_H"]["AAAAAB"], worked["A3_H"]["AABBCC"]], rel=1e-5)
    assert entropy_lambda(entropy, 1.0, 0.5).tolist() == pytest.approx(worked["A3_lambda_Hbar1"], rel=1e-5)
    highest = entropy_lambda(torch.zeros(1), worked["A3_H"]["max_L6"], 0.5)
    assert float(highest) == pytest.approx(worked["A3_lambda_max_L6"], rel=1e-5)
    assert entropy_lambda(torch.tensor([float("nan")]), 1.0, 0.5).tolist() == [1.0]
    assert entropy_lambda(torch.zeros(1), 1.0, 0.0).tolist() == [1.0]


def test_the_moving_average_is_used_before_it_is_updated(worked: dict[str, Any]) -> None:
    case, options = worked["A3_ema"], SageOptions()
    nan = float("nan")
    first = observe({}, torch.tensor([[case["Hbar0"], nan], [case["Hbar0"], case["Hbar0"]]]), options)
    assert first["entropy_mean"] == pytest.approx(case["Hbar0"])
    second = observe(first, torch.tensor([[case["batch_mean"]]]), options)
    assert second["entropy_mean"] == pytest.approx(case["Hbar0"])
    third = observe(second, torch.tensor([[0.0]]), options)
    assert third["entropy_mean"] == pytest.approx(case["Hbar1"])
    assert observe(third, torch.tensor([[nan]]), options) == third


@settings(deadline=None)
@given(RATIO, st.floats(0.001, 0.9), st.floats(1.0, 1.45), st.sampled_from(NEG_BOUNDS))
def test_the_bounds_never_turn_a_gradient_and_grow_with_lambda(
    ratio: float, old: float, penalty: float, kind: str
) -> None:
    old = min(old, 0.999 / ratio)  # probabilities end at 1
    found = coefficient(ratio, old, -1.0, penalty, neg_bound=kind)
    assert found >= 0
    assert found >= coefficient(ratio, old, -1.0, 1.0, neg_bound=kind) * (1 - 1e-6)
    if kind != "scale":
        assert found <= ratio * (1 + 1e-6)  # the op of the geometric mean is float32
    if kind == "printed":
        assert found == pytest.approx(ratio)


@settings(deadline=None)
@given(RATIO, st.floats(0.001, 0.9), st.sampled_from([-1.0, 1.0]))
def test_without_boost_and_penalty_it_is_gbpo_on_the_slate(ratio: float, old: float, advantage: float) -> None:
    before = torch.tensor([[math.log(old), math.log(old) / 2]], dtype=torch.double)
    given_ = inputs_of(before, [advantage])
    after = (before + math.log(ratio)).clamp(max=-1e-3)
    ours, theirs = after.clone().requires_grad_(), after.clone().requires_grad_()
    loss = sage(ours, given_, SageOptions(boost=0.0, entropy_beta=0.0))[0]
    expected = gbpo(theirs, given_, GbpoOptions(level="sequence"))[0]
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_gradient_is_the_finite_difference_with_the_bound_held() -> None:
    """Form 2 of papers.md A-5 on the logits of a small policy: J = r(theta) A / sg(Phi)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.double)
    old_logits = logits + 0.1 * torch.randn(6, 5, generator=generator, dtype=torch.double)
    tokens = torch.tensor([0, 3, 1, 4, 2, 2])

    def logp(of: torch.Tensor) -> torch.Tensor:
        return of.log_softmax(1).gather(1, tokens[:, None]).T

    before = logp(old_logits)
    given_ = inputs_of(before, [-0.7], slate_entropy=[20 - math.atanh(0.5)], state={"entropy_mean": 20.0})
    theta = logits.clone().requires_grad_()
    sage(logp(theta), given_, SageOptions())[0].backward()
    with torch.no_grad():
        ratio = (logp(logits) - before).mean().exp()
        old = before.mean().exp()
        bound = max(1.0, float((1 - ratio * old) / (1.25 * old)))
        step = 1e-6
        numeric = torch.zeros_like(logits)
        for place in range(logits.numel()):
            change = torch.zeros(logits.numel(), dtype=torch.double)
            change[place] = step
            high, low = ((logp(logits + sign * change.view(6, 5)) - before).mean().exp() for sign in (1, -1))
            numeric.view(-1)[place] = 0.7 * (high - low) / (2 * step) / bound
    assert theta.grad is not None
    assert float((theta.grad - numeric).abs().max()) < 1e-8  # float32 again; in double 3e-11


def test_the_worked_coefficient_and_value_of_the_toy(worked: dict[str, Any]) -> None:
    case = worked["A5"]
    assert case["r"] * case["pbar_old"] == pytest.approx(case["pbar"])
    assert coefficient(case["r"], case["pbar_old"], -0.7, 1.25) == pytest.approx(case["coeff"])
    before = torch.full((1, 6), math.log(case["pbar_old"]), dtype=torch.double)
    given_ = inputs_of(before, [-0.7], slate_entropy=[20 - math.atanh(0.5)], state={"entropy_mean": 20.0})
    loss, report = sage(before + math.log(case["r"]), given_, SageOptions())
    assert -float(loss) == pytest.approx(case["value_form2"])
    assert float(report["entropy_lambda"] / report["tokens"]) == pytest.approx(1.25)


def test_slates_by_item_share_the_divisor_between_ratio_and_gradient() -> None:
    before = torch.full((1, 6), -1.0, dtype=torch.double)
    logp = (before + torch.tensor([0.3, -0.1, 0.2, 0.0, 0.4, -0.2])).requires_grad_()
    given_ = inputs_of(before, [2.0], slate_size=[2])
    options = SageOptions(divisor="item", boost=10.0)
    assert torch.autograd.gradcheck(lambda x: sage(x, given_, options)[0], logp)
    sage(logp, given_, options)[0].backward()
    assert logp.grad is not None
    assert logp.grad.flatten().tolist() == pytest.approx([-2 * math.exp(0.3) / 2] * 6)


@pytest.mark.parametrize("change", [19.0, -19.0])
def test_far_ratios_of_items_stay_finite(change: float) -> None:
    """Tokens of an item add up: 24 of them are e^456 apart."""
    before = torch.full((2, 24), -1.0)
    logp = (before + change).requires_grad_()
    loss, _ = sage(logp, inputs_of(before, [1.0, -1.0], slate_size=[1, 0]), SageOptions(divisor="item"))
    loss.backward()
    assert loss.isfinite()
    assert logp.grad is not None
    assert logp.grad.isfinite().all()


def test_an_advantage_of_zero_adds_nothing() -> None:
    logp = torch.zeros(1, 2, requires_grad=True)
    loss, _ = sage(logp, inputs_of(torch.full((1, 2), -3.0), [0.0]), SageOptions())
    loss.backward()
    assert float(loss.detach()) == 0
    assert (logp.grad == 0).all()
