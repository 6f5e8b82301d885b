"""Share of a slate's places that hold something new."""

from __future__ import annotations

import pytest
from groups_of import REWARD_CONTEXT, groups_of

from recrl.groups.rollout import RolloutGroups
from recrl.rewards.base import RewardOptions
from recrl.rewards.valid_distinct import valid_distinct


def of(groups: RolloutGroups) -> list[list[float]]:
    found: list[list[float]] = valid_distinct(groups, RewardOptions(), REWARD_CONTEXT).tolist()
    return found


def test_repeated_and_missing_items_cost_their_share() -> None:
    slates = [[[1, 2, 3], [1, 1, 3], [7, 7, 7], [4, -1, -1], [-1, -1, -1]]]
    assert of(groups_of(slates, exists=[[True] * 5]))[0] == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3, 0])


def test_responses_that_do_not_exist_earn_nothing() -> None:
    assert of(groups_of([[1, 2]], exists=[[True, False]])) == [[1, 0]]
