"""The rank penalty: both scales, the gate, and what counts as a place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from groups_of import REWARD_CONTEXT, groups_of

from recrl.groups.rollout import RolloutGroups
from recrl.rewards.rank import RankOptions, rank

TARGET = [[15]]


def of(groups: RolloutGroups, **options: Any) -> list[list[float]]:
    value = rank(groups, RankOptions(**options), REWARD_CONTEXT)
    assert value.dtype == torch.float32
    found: list[list[float]] = value.tolist()
    return found


def test_a_miss_costs_more_the_higher_it_stands(worked: dict[str, Any]) -> None:
    penalties = of(groups_of([list(range(16))], [[99]]), rank_gate="always")[0]
    for place, penalty in worked["C_rank"].items():
        assert penalties[int(place) - 1] == pytest.approx(penalty, rel=1e-6)


def test_hits_cost_nothing_and_keep_their_place(worked: dict[str, Any]) -> None:
    first, _, third, fourth = (worked["C_rank"][place] for place in "1234")
    assert of(groups_of([[1, 15, 2, 3]], TARGET))[0] == pytest.approx([first, 0, third, fourth])


def test_minionerecs_scale_sums_to_minus_one(worked: dict[str, Any]) -> None:
    missing = groups_of([[1, 2, 3, 4]], TARGET)
    penalties = of(missing, scale="minionerec", rank_gate="always")[0]
    assert penalties == pytest.approx(worked["C_minionerec_rank_G4"], abs=1e-6)
    assert sum(penalties) == pytest.approx(-1)
    assert of(missing, scale="minionerec") == [[0, 0, 0, 0]]
    # A hit's share is not handed to the others.
    hit_second = of(groups_of([[1, 15, 3, 4]], TARGET), scale="minionerec")[0]
    share = worked["C_minionerec_rank_G4"]
    assert hit_second == pytest.approx([share[0], 0, share[2], share[3]], abs=1e-6)


def test_groups_without_a_hit_are_penalised_only_where_asked() -> None:
    groups = groups_of([[1, 2], [1, 15]], [[15], [15]])
    assert of(groups) == [[0, 0], [pytest.approx(-1.442695), 0]]
    assert of(groups, rank_gate="always")[0] == pytest.approx([-1.442695, -0.910239], abs=1e-6)


@pytest.mark.parametrize("scale", ["singer", "minionerec"])
def test_responses_that_do_not_exist_take_no_place(scale: str) -> None:
    holed = groups_of([[1, 9, 15, 2]], TARGET, exists=[[True, False, True, True]])
    whole = of(groups_of([[1, 15, 2]], TARGET), scale=scale)[0]
    assert of(holed, scale=scale)[0] == pytest.approx([whole[0], 0, whole[1], whole[2]])
    assert of(groups_of([[1, 2]], TARGET, exists=[[False, False]]), scale=scale, rank_gate="always") == [[0, 0]]


def test_a_response_without_an_item_is_a_miss_and_a_prompt_without_a_target_has_none() -> None:
    groups = groups_of([[-1, 15], [1, 2]], [[15], [-1]], exists=[[True, True], [True, True]])
    assert of(groups, rank_gate="always") == [[pytest.approx(-1.442695), 0], [0, 0]]


def test_any_target_of_a_set_is_a_hit() -> None:
    assert of(groups_of([[1, 2, 3]], [[3, 1, -1]]))[0] == pytest.approx([0, -0.910239, 0], abs=1e-6)
