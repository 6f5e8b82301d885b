"""Credit by SID level: worked numbers, suffix siblings, sets of targets, slates."""

from __future__ import annotations

from typing import Any

import pytest
from groups_of import REWARD_CONTEXT, THREE_LEVELS, groups_of

from recrl.groups.rollout import RolloutGroups
from recrl.rewards.sid_level import SidLevelOptions, sid_level


def of(groups: RolloutGroups, decay: float = 0.5) -> list[list[float]]:
    found: list[list[float]] = sid_level(groups, SidLevelOptions(decay=decay), REWARD_CONTEXT).tolist()
    return found


@pytest.mark.parametrize("decay", [0.5, 0.1, 0.8])
def test_levels_in_common_are_worth_the_worked_numbers(worked: dict[str, Any], decay: float) -> None:
    # 0, 1, 2 and 3 codes in common, none of them the item.
    by_levels = groups_of([[3, 2, 1, 6]], [[0]], codes=THREE_LEVELS)
    assert of(by_levels, decay)[0] == pytest.approx(worked["C_reason"][f"lam{decay:g}"], abs=1e-6)


def test_the_worked_hard_group(worked: dict[str, Any]) -> None:
    assert of(groups_of([[1, 2, 3, 4]], [[0]], codes=THREE_LEVELS))[0] == pytest.approx(worked["C_hard"]["R"])


def test_the_item_itself_is_better_than_one_with_the_same_codes() -> None:
    assert of(groups_of([[0, 6]], [[0]], codes=THREE_LEVELS)) == [[1 - 0.5**4, 1 - 0.5**3]]


def test_a_code_behind_a_wrong_one_counts_for_nothing() -> None:
    assert of(groups_of([[4 * 2 + 3]], [[4 * 1 + 3]])) == [[0]]


def test_the_nearest_of_several_targets_counts() -> None:
    assert of(groups_of([[4, 3, 5]], [[3, 1, -1]], codes=THREE_LEVELS)) == [[0.75, 1 - 0.5**4, 0.5]]


def test_padding_and_missing_responses_earn_nothing() -> None:
    groups = groups_of([[-1, 5, 5]], [[5, -1]], exists=[[True, False, True]])
    assert of(groups) == [[0, 0, 1 - 0.5**3]]
    assert of(groups_of([[-1, 5]], [[-1]], exists=[[True, True]])) == [[0, 0]]


def test_a_slate_earns_the_mean_of_its_distinct_items() -> None:
    slates = [[[2, 1, -1], [2, 2, 3], [-1, -1, -1]]]
    exists = [[True, True, True]]
    assert of(groups_of(slates, [[0]], codes=THREE_LEVELS, exists=exists)) == [[0.625, 0.25, 0]]
