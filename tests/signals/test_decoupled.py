"""Decoupled advantages: SAGE's worked numbers, GDPO's collapse, and what is in no mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from groups_of import context, groups_of

from recrl.groups.rollout import Signal
from recrl.signals.decoupled import DecoupledOptions, decoupled

NAN = float("nan")
WORKED = [[(1, 10), (1, 0), (0, 10), (0, 0)], [(0, 5), (0, 5), (0, 0), (0, 0)]]


def signal(
    rewards: Any, *, exists: list[list[bool]] | None = None, weights: tuple[float, ...] = (1, 1), **options: Any
) -> Signal:
    values = torch.tensor(rewards, dtype=torch.float32)
    groups = groups_of([list(range(len(row))) for row in rewards], exists=exists)
    return decoupled(groups, values, torch.tensor(weights), DecoupledOptions(**options), context({"seen": 1.0}))


def test_the_worked_batch(worked: dict[str, Any]) -> None:
    made = signal(WORKED)
    assert made.advantage.flatten().tolist() == pytest.approx(worked["A4_batch"], abs=3e-6)
    assert made.active.all()
    assert not made.repaired.any()
    assert made.state == {"seen": 1.0}


def test_the_sums_before_the_batch_is_scaled_are_the_worked_ones(worked: dict[str, Any]) -> None:
    before = torch.tensor(worked["A4_pre"])
    assert signal(WORKED).advantage.flatten().tolist() == pytest.approx((before / before.std()).tolist(), abs=3e-6)


def test_summed_first_the_larger_scale_decides(worked: dict[str, Any]) -> None:
    both = torch.tensor([*worked["A4_weighted_sum_grpo_g1"], *worked["A4_weighted_sum_grpo_g2"]])
    made = signal(WORKED, decouple=False)
    assert made.advantage.flatten().tolist() == pytest.approx((both / both.std()).tolist(), abs=3e-6)


def test_groups_in_which_rewards_agree_stand_out_only_if_decoupled(worked: dict[str, Any]) -> None:
    rewards = [[(1, 0), (0, 0)], [(1, 1), (0, 0)]]
    for decouple, name in ((False, "sum_then_norm"), (True, "norm_then_sum")):
        before = torch.tensor(worked["A4_collapse"][name])
        made = signal(rewards, decouple=decouple).advantage
        torch.testing.assert_close(made, before / before.std(), atol=3e-6, rtol=0)


def test_weights_multiply_what_is_normalised() -> None:
    # Group by hand: z-scores +-.7071 of either reward, 3 times the first less the second.
    made = signal([[(1, 0), (0, 1)], [(7, 0), (0, 0)]], weights=(3, 1))
    before = torch.tensor([[2.0, -2.0], [3.0, -3.0]]) * 0.5**0.5
    torch.testing.assert_close(made.advantage, before / before.std(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("decouple", [True, False])
def test_a_reward_of_weight_zero_is_nowhere(decouple: bool) -> None:
    rewards = torch.tensor(WORKED, dtype=torch.float32)
    rewards[..., 1] = torch.rand(2, 4)
    rewards[0, 0, 1] = NAN
    plain = signal(rewards[..., :1].tolist(), weights=(1,), decouple=decouple)
    made = signal(rewards.tolist(), weights=(1, 0), decouple=decouple)
    torch.testing.assert_close(made.advantage, plain.advantage)
    assert torch.equal(made.active, plain.active)


@pytest.mark.parametrize("decouple", [True, False])
@pytest.mark.parametrize("drop_flat", [True, False])
def test_what_can_not_be_scored_is_in_no_mean(decouple: bool, drop_flat: bool) -> None:
    options: dict[str, Any] = {"decouple": decouple, "drop_flat": drop_flat}
    whole = signal([[(1, 10), (1, 0), (0, 0)], WORKED[1][:3]], **options)
    unscored = signal([[(1, 10), (NAN, 99), (1, 0), (0, 0)], [*WORKED[1][:3], (7, NAN)]], **options)
    missing = [[True, False, True, True], [True, True, True, False]]
    holed = signal([[(1, 10), (5, 99), (1, 0), (0, 0)], [*WORKED[1][:3], (7, 8)]], exists=missing, **options)
    there = torch.tensor(missing)
    for made in (unscored, holed):
        torch.testing.assert_close(made.advantage[there], whole.advantage.flatten())
        assert (made.advantage[~there] == 0).all()
        assert made.active[there].all()
    assert not holed.active[~there].any()
    assert unscored.active[~there].any().item() is not drop_flat


def test_an_equal_reward_says_nothing_and_a_flat_group_is_exactly_zero() -> None:
    rewards = [[(1, 0.1), (0, 0.1)], [(0.1, 0.1), (0.1, 0.1)]]
    made = signal(rewards)
    assert made.advantage[0].tolist() == pytest.approx([1.2247, -1.2247], abs=1e-3)  # +-.7071 among four
    assert (made.advantage[1] == 0).all()
    assert made.active.tolist() == [[True, True], [False, False]]
    assert signal(rewards, drop_flat=False).active.all()


@pytest.mark.parametrize("decouple", [True, False])
def test_a_batch_that_says_nothing_is_zero(decouple: bool) -> None:
    made = signal([[(0.1, 3), (0.1, 3), (0.1, 3)]], decouple=decouple)
    assert (made.advantage == 0).all()
    assert not made.active.any()


def test_ddof_holds_in_groups_and_over_the_batch() -> None:
    made = signal([[(1,), (0,), (0,), (0,)]], weights=(1,), ddof=0)
    assert made.advantage[0].tolist() == pytest.approx([1.7320508, *[-0.5773503] * 3], abs=1e-5)
