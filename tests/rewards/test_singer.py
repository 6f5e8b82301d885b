"""SINGER's total: which groups get what, and the worked advantages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from groups_of import REWARD_CONTEXT, THREE_LEVELS, context, groups_of
from torch import Tensor

from recrl.groups.rollout import RolloutGroups
from recrl.rewards.singer import SingerOptions, singer
from recrl.signals.group_zscore import GroupZscoreOptions, group_zscore


def of(groups: RolloutGroups, **options: Any) -> Tensor:
    return singer(groups, SingerOptions(**options), REWARD_CONTEXT)


def advantages(groups: RolloutGroups, rewards: Tensor) -> list[float]:
    made = group_zscore(groups, rewards.unsqueeze(-1), torch.ones(1), GroupZscoreOptions(), context())
    found: list[float] = made.advantage[0].tolist()
    return found


def test_the_worked_easy_group(worked: dict[str, Any]) -> None:
    groups = groups_of([[1, 5, 2, 3]], [[5]])
    rewards = of(groups)
    assert rewards[0].tolist() == pytest.approx(worked["C_easy_R"], abs=1e-6)
    assert advantages(groups, rewards) == pytest.approx(worked["C_easy_A"], abs=2e-6)


def test_the_worked_hard_group(worked: dict[str, Any]) -> None:
    groups = groups_of([[1, 2, 3, 4]], [[0]], codes=THREE_LEVELS)
    rewards = of(groups)
    assert rewards[0].tolist() == pytest.approx(worked["C_hard"]["R"])
    assert advantages(groups, rewards) == pytest.approx(worked["C_hard"]["A"], abs=2e-6)


def test_a_group_that_hits_with_help_stays_hard() -> None:
    groups = groups_of([[1, 0], [1, 0]], [[0], [0]], codes=THREE_LEVELS)
    groups = replace(groups, hard=torch.tensor([True, False]))
    easy = [pytest.approx(-1.442695), 1]
    assert of(groups).tolist() == [[0.75, 0.9375], easy]
    assert of(groups, hard="rank").tolist() == [easy, easy]


def test_without_sid_levels_a_group_of_misses_collapses_unless_the_gate_is_open() -> None:
    groups = groups_of([[1, 2]], [[5]])
    assert of(groups, hard="rank").tolist() == [[0, 0]]
    assert of(groups, hard="rank", rank_gate="always")[0].tolist() == pytest.approx([-1.442695, -0.910239], abs=1e-6)


def test_easy_groups_may_get_sid_levels_too() -> None:
    groups = groups_of([[0, 1]], [[0]], codes=THREE_LEVELS)
    plain, both, alone = (of(groups, easy=easy)[0].tolist() for easy in ("rank", "rank+sid", "sid"))
    assert alone == [0.9375, 0.75]
    assert both == pytest.approx([plain[0] + 0.9375, plain[1] + 0.75])


def test_its_options_reach_its_parts() -> None:
    groups = groups_of([[1, 2]], [[0]], codes=THREE_LEVELS)
    assert of(groups, decay=0.1)[0].tolist() == pytest.approx([0.99, 0.9])
    assert of(groups_of([[1, 5]], [[5]]), scale="minionerec")[0].tolist() == pytest.approx([-0.613147, 1], abs=1e-6)
