"""Partial hits: worked numbers, sets, slates."""

from __future__ import annotations

from typing import Any

import pytest
from groups_of import REWARD_CONTEXT, THREE_LEVELS, groups_of

from recrl.groups.rollout import RolloutGroups
from recrl.rewards.base import RewardOptions
from recrl.rewards.partial_hit import partial_hit


def of(groups: RolloutGroups) -> list[list[float]]:
    found: list[list[float]] = partial_hit(groups, RewardOptions(), REWARD_CONTEXT).tolist()
    return found


def test_one_item_a_response_is_worth_the_worked_numbers(worked: dict[str, Any]) -> None:
    groups = groups_of([[1, 2, 3, -1]], [[0]], codes=THREE_LEVELS, exists=[[True] * 4])
    assert of(groups)[0] == pytest.approx(worked["D_u"])


def test_a_slate_is_worth_the_mean_of_its_items(worked: dict[str, Any]) -> None:
    value = of(groups_of([[[0, 5], [0, 0], [5, -1]]], [[0]], codes=THREE_LEVELS))[0]
    assert value == pytest.approx([worked["D_multi"]["u"], 1, 0.01])  # named twice is in the set once
    assert 100 * value[0] == pytest.approx(worked["E_partial_hit"])


def test_every_item_is_measured_by_the_target_nearest_to_it() -> None:
    assert of(groups_of([[[4, 3]]], [[1, 3, -1]], codes=THREE_LEVELS))[0] == pytest.approx([0.55])


def test_missing_responses_and_unknown_targets_earn_nothing() -> None:
    assert of(groups_of([[0, 0]], [[0]], codes=THREE_LEVELS, exists=[[True, False]])) == [[1, 0]]
    assert of(groups_of([[0, -1]], [[-1]], codes=THREE_LEVELS, exists=[[True, True]])) == [[0, 0]]
