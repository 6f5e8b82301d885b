"""NDCG of slates, by hand and against the evaluation's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from groups_of import REWARD_CONTEXT, groups_of

from recrl.data.ragged import Ragged
from recrl.evaluation.metrics import ndcg_at
from recrl.groups.rollout import RolloutGroups
from recrl.rewards.base import RewardOptions
from recrl.rewards.slate_ndcg import slate_ndcg


def of(groups: RolloutGroups) -> list[list[float]]:
    found: list[list[float]] = slate_ndcg(groups, RewardOptions(), REWARD_CONTEXT).tolist()
    return found


def test_one_target_is_worth_less_the_lower_it_stands(worked: dict[str, Any]) -> None:
    slates = [[[5, 1, 2], [1, 5, 2], [1, 2, 5], [1, 2, 3]]]
    expected = [1, 0.6309298, worked["A6_ndcg_rank3"], 0]
    assert of(groups_of(slates, [[5]]))[0] == pytest.approx(expected)


def test_several_targets_are_measured_by_the_best_that_a_slate_can_hold() -> None:
    # Two places hold 1 + .63 at best, whatever the set; the second alone is .63 of that.
    assert of(groups_of([[[1, 2], [2, 9]]], [[1, 2, 3]]))[0] == pytest.approx([1, 1 / 1.6309298])
    assert of(groups_of([[[9, 2]]], [[2, 2, -1]]))[0] == pytest.approx([0.6309298])


def test_a_repeated_item_counts_at_its_first_place_alone() -> None:
    assert of(groups_of([[[9, 5, 5]]], [[5]]))[0] == pytest.approx([0.6309298])
    assert of(groups_of([[[5, 5, 5]]], [[5, 6]]))[0] == pytest.approx([1 / 1.6309298])


def test_gaps_keep_their_place_and_nothing_is_earned_without_a_target() -> None:
    groups = groups_of([[[-1, 5], [5, -1]], [[-1, -1], [3, 4]]], [[5], [-1]], exists=[[True, False], [True, True]])
    assert of(groups) == [[pytest.approx(0.6309298), 0], [0, 0]]


def test_it_is_the_metric_of_the_evaluation() -> None:
    rng = np.random.default_rng(0)
    slates, targets = rng.integers(-1, 12, (20, 1, 5)), rng.integers(0, 12, (20, 3))
    value = of(groups_of(slates.tolist(), targets.tolist(), exists=[[True]] * 20))
    expected = ndcg_at(slates[:, 0], Ragged.from_lists(targets.tolist()), 5)
    torch.testing.assert_close(torch.tensor(value)[:, 0].double(), torch.from_numpy(expected), atol=1e-6, rtol=0)
