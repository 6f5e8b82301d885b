"""The hit reward: target sets, padding, missing responses."""

from __future__ import annotations

import torch
from groups_of import REWARD_CONTEXT, groups_of

from recrl.rewards import REWARDS
from recrl.rewards.base import RewardOptions
from recrl.rewards.hit import HIT, hit


def rewards(items: list[list[int]], targets: list[list[int]], exists: list[list[bool]] | None = None) -> object:
    value = hit(groups_of(items, targets, exists=exists), RewardOptions(), REWARD_CONTEXT)
    assert value.dtype == torch.float32
    return value.tolist()


def test_a_response_that_names_the_target_earns_one() -> None:
    assert rewards([[3, 1, 2], [0, 4, 5]], [[1], [7]]) == [[0, 1, 0], [0, 0, 0]]


def test_any_target_of_a_set_counts_once_each() -> None:
    assert rewards([[3, 1, 1, 2]], [[1, 3, 9]]) == [[1, 1, 1, 0]]
    assert rewards([[3, 3]], [[3, 3]]) == [[1, 1]]


def test_padding_never_hits_padding() -> None:
    assert rewards([[-1, -1, 2]], [[2, -1]]) == [[0, 0, 1]]
    assert rewards([[-1, 0]], [[-1, -1]], exists=[[True, True]]) == [[0, 0]]


def test_a_response_that_does_not_exist_earns_nothing() -> None:
    assert rewards([[5, 5]], [[5]], exists=[[True, False]]) == [[1, 0]]


def test_the_table_holds_this_reward() -> None:
    module, name = REWARDS["hit"].split(":")
    assert module == hit.__module__
    assert HIT.run is hit
    assert name == "HIT"
