"""GRPO's signal: worked numbers, flat and incomplete groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from groups_of import context, groups_of
from hypothesis import given
from hypothesis import strategies as st

from recrl.groups.rollout import Signal
from recrl.signals.group_zscore import GroupZscoreOptions, group_zscore


def signal(
    rewards: list[list[float]], *, exists: list[list[bool]] | None = None, options: GroupZscoreOptions | None = None
) -> Signal:
    groups = groups_of([list(range(len(row))) for row in rewards], exists=exists)
    return group_zscore(
        groups,
        torch.tensor(rewards).unsqueeze(-1),
        torch.ones(1),
        options or GroupZscoreOptions(),
        context({"seen": 1.0}),
    )


@pytest.mark.parametrize("ddof", [0, 1])
def test_one_hit_of_four_is_the_worked_case(worked: dict[str, Any], ddof: int) -> None:
    made = signal([[1.0, 0.0, 0.0, 0.0]], options=GroupZscoreOptions(ddof=ddof))
    assert made.advantage[0].tolist() == pytest.approx(worked[f"B_grpo_1000_ddof{ddof}"], abs=2e-6)


def test_without_scaling_rewards_are_centred_alone() -> None:
    made = signal([[1.0, 0.0, 0.0, 0.0]], options=GroupZscoreOptions(scale_by_std=False))
    assert made.advantage[0].tolist() == [0.75, -0.25, -0.25, -0.25]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e6, -3.3])
@pytest.mark.parametrize("scale", [True, False])
def test_a_flat_group_is_exactly_zero_and_inactive(value: float, scale: bool) -> None:
    made = signal([[value] * 7, [1.0] + [0.0] * 6], options=GroupZscoreOptions(scale_by_std=scale))
    assert (made.advantage[0] == 0).all()
    assert made.active.tolist() == [[False] * 7, [True] * 7]


def test_rewards_that_differ_by_a_rounding_say_nothing() -> None:
    made = signal([[0.0, 1e-9], [0.0, 1e-6]])
    assert (made.advantage[0] == 0).all()
    assert made.active.tolist() == [[False, False], [True, True]]


def test_flat_groups_stay_active_where_asked() -> None:
    exists = [[True, True, False], [True, True, True]]
    made = signal([[0.0, 0.0, 9.0], [1.0, 0.0, 0.0]], exists=exists, options=GroupZscoreOptions(drop_flat=False))
    assert made.active.tolist() == exists
    assert (made.advantage[0] == 0).all()


def test_missing_responses_count_for_nothing() -> None:
    whole = signal([[1.0, 0.0, 0.0]])
    holed = signal([[1.0, 77.0, 0.0, 0.0]], exists=[[True, False, True, True]])
    assert holed.advantage[0, [0, 2, 3]].tolist() == pytest.approx(whole.advantage[0].tolist())
    assert holed.advantage[0, 1] == 0
    assert holed.active.tolist() == [[True, False, True, True]]


@pytest.mark.parametrize("exists", [[True, False, False], [False, False, False]], ids=["one", "none"])
def test_a_group_of_fewer_than_two_says_nothing(exists: list[bool]) -> None:
    made = signal([[1.0, 0.0, 0.0]], exists=[exists])
    assert (made.advantage == 0).all()
    assert not made.active.any()


def test_rewards_are_summed_by_weight_before_they_are_scaled() -> None:
    groups = groups_of([[0, 1, 2]])
    rewards = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    options = GroupZscoreOptions(scale_by_std=False)
    made = group_zscore(groups, rewards, torch.tensor([1.0, 2.0]), options, context())
    assert made.advantage[0].tolist() == [0, 1, -1]
    assert group_zscore(groups, rewards, torch.tensor([0.0, 0.0]), options, context()).active.any().item() is False


@pytest.mark.parametrize("drop_flat", [True, False])
def test_what_can_not_be_scored_is_in_no_mean(drop_flat: bool) -> None:
    whole = signal([[1.0, 0.0, 0.0]])
    made = signal([[1.0, float("nan"), 0.0, 0.0]], options=GroupZscoreOptions(drop_flat=drop_flat))
    assert made.advantage[0, [0, 2, 3]].tolist() == pytest.approx(whole.advantage[0].tolist())
    assert made.advantage[0, 1] == 0
    assert made.active.tolist() == [[True, not drop_flat, True, True]]


def test_a_reward_of_weight_zero_may_be_anything() -> None:
    rewards = torch.tensor([[[1.0, float("nan")], [0.0, 5.0]]])
    made = group_zscore(groups_of([[0, 1]]), rewards, torch.tensor([1.0, 0.0]), GroupZscoreOptions(), context())
    assert made.advantage[0].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)], abs=1e-5)
    assert made.active.all()


def test_nothing_is_repaired_and_the_state_is_handed_on() -> None:
    made = signal([[1.0, 0.0]])
    assert not made.repaired.any()
    assert made.state == {"seen": 1.0}


@given(
    st.lists(st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4), min_size=1, max_size=5), st.integers(0, 1)
)
def test_every_group_has_mean_zero_and_keeps_the_order_of_its_rewards(rewards: list[list[float]], ddof: int) -> None:
    made = signal(rewards, options=GroupZscoreOptions(ddof=ddof))
    assert torch.isfinite(made.advantage).all()
    assert (made.advantage.sum(1).abs() < 1e-3).all()
    for row, reward in enumerate(rewards):
        if made.active[row].any():
            ranked = made.advantage[row, torch.tensor(reward).argsort()]
            assert (ranked.diff() >= -1e-6).all()
