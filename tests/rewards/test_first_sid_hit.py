"""OpenOneRec's score: the first item alone counts."""

from __future__ import annotations

from groups_of import REWARD_CONTEXT, groups_of

from recrl.groups.rollout import RolloutGroups
from recrl.rewards.base import RewardOptions
from recrl.rewards.first_sid_hit import first_sid_hit
from recrl.rewards.hit import hit


def of(groups: RolloutGroups) -> object:
    return first_sid_hit(groups, RewardOptions(), REWARD_CONTEXT).tolist()


def test_a_target_behind_the_first_item_does_not_count() -> None:
    groups = groups_of([[[5, 1], [1, 5], [1, 2]]], [[5]])
    assert of(groups) == [[1, 0, 0]]
    assert hit(groups, RewardOptions(), REWARD_CONTEXT).tolist() == [[1, 1, 0]]


def test_any_target_of_a_set_and_no_padding() -> None:
    assert of(groups_of([[[3, 1], [-1, 1], [2, 1]]], [[1, 3, -1]], exists=[[True, True, False]])) == [[1, 0, 0]]


def test_a_response_that_does_not_exist_earns_nothing() -> None:
    assert of(groups_of([[5, 5]], [[5]], exists=[[True, False]])) == [[1, 0]]
