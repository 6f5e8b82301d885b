"""Engagement of the hits; item ``i`` of the context is worth ``i / 15``."""

from __future__ import annotations

import pytest
from groups_of import REWARD_CONTEXT, groups_of

from recrl.groups.rollout import RolloutGroups
from recrl.rewards.base import RewardOptions
from recrl.rewards.engagement import engagement


def of(groups: RolloutGroups) -> list[list[float]]:
    found: list[list[float]] = engagement(groups, RewardOptions(), REWARD_CONTEXT).tolist()
    return found


def test_a_hit_is_worth_its_items_engagement_and_a_miss_nothing() -> None:
    assert of(groups_of([[9, 12, 6]], [[9, 6]]))[0] == pytest.approx([9 / 15, 0, 6 / 15])


def test_a_slate_is_worth_the_mean_of_its_hits() -> None:
    slates = [[[9, 12, 6], [9, 9, 6], [12, 13, 14]]]
    assert of(groups_of(slates, [[9, 6]]))[0] == pytest.approx([0.5, 0.5, 0])  # named twice is one hit


def test_padding_and_missing_responses_earn_nothing() -> None:
    groups = groups_of([[[-1, 15], [15, -1], [-1, -1]]], [[15, -1]], exists=[[True, False, True]])
    assert of(groups) == [[1, 0, 0]]
