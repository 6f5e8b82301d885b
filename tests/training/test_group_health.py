"""Metrics of a step's groups, by hand."""

from __future__ import annotations

import pytest
import torch
from groups_of import groups_of

from recrl.groups.rollout import Signal
from recrl.training.group_health import group_health, unequal


def test_every_figure_by_hand() -> None:
    groups = groups_of(
        [[1, 2, 3], [4, 4, 5], [6, 7, -1], [8, 9, 9]],
        [[1, 2], [5, -1], [0, -1], [8, 9]],
        exists=[[True] * 3, [True] * 3, [True, True, False], [True] * 3],
    )
    active = torch.tensor([[True] * 3, [True, False, True], [False] * 3, [False] * 3])
    repaired = torch.tensor([False, True, False, False])
    rewards = torch.stack([groups.hits.float(), torch.full((4, 3), 0.5)], -1)
    rewards[2, 2] = 99.0  # does not exist
    advantage = torch.zeros(4, 3)
    advantage[0] = torch.tensor([1.0, -0.5, -0.5])
    advantage[3] = 1.0  # of rows that are not active
    signal = Signal(groups, advantage, active, repaired)
    values = group_health(groups, signal, rewards, torch.tensor([1.0, 2.0]))
    assert values == pytest.approx(
        {
            "reward/mean": (6 + 11 * 1.0) / 11,  # hits: 2 + 1 + 0 + 3; every response earns 2 x .5 besides
            "reward/hit_ratio": 3 / 4,
            "rollout/valid_ratio": 1.0,
            "rollout/distinct_ratio": 9 / 11,
            "rollout/responses": 11,
            "rollout/answerable_ratio": 1.0,
            "signal/all_zero_ratio": 1 / 4,
            "signal/single_hit_ratio": 1 / 4,
            "signal/trainable_ratio": 1 / 4,  # group 1 is active, yet its rows all have advantage 0
            "signal/repaired_ratio": 1 / 4,
            "signal/kept_ratio": 1.0,
            "signal/active_rows": 5,
            # Prompts, and of every response but the last token: one of an odd item's two, two of an even one's three.
            "tokens/unfiltered": 4 * 4 + 6 * 1 + 5 * 2,
        }
    )


def test_responses_without_an_item_are_not_valid() -> None:
    groups = groups_of([[1, -1, 2, -1]], [[9]], exists=[[True, True, True, False]])
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    signal = Signal(groups, torch.zeros(1, 4), nothing, nothing[:, 0])
    values = group_health(groups, signal, torch.zeros(1, 4, 1), torch.ones(1))
    assert values["rollout/valid_ratio"] == pytest.approx(2 / 3)
    assert values["rollout/distinct_ratio"] == pytest.approx(2 / 3)
    assert values["signal/all_zero_ratio"] == 1
    assert values["signal/trainable_ratio"] == 0


def test_groups_are_unequal_where_two_responses_that_exist_differ_in_some_reward() -> None:
    groups = groups_of([[1, 2]] * 4, exists=[[True, True], [True, True], [True, False], [True, True]])
    equal, nan = [1.0, 0.0], float("nan")
    rewards = torch.tensor([[equal, equal], [equal, [1.0, 0.5]], [equal, [0.0, 9.0]], [equal, [nan, 0.0]]])
    assert unequal(groups, rewards).tolist() == [False, True, False, False]
