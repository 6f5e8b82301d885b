"""The collaborative reward over a scorer by hand: item ``i`` scores ``i`` more than the last item of the history."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from groups_of import REWARD_CONTEXT, groups_of
from torch import Tensor

from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Choice
from recrl.rewards.collaborative import CollaborativeOptions, collaborative

ASKED: list[Choice] = []


def scorer(choice: Choice) -> Callable[[PromptBatch], Tensor]:
    ASKED.append(choice)
    return lambda prompts: torch.arange(16.0) + prompts.history.amax(1, keepdim=True)


CONTEXT = replace(REWARD_CONTEXT, scorer=scorer)


def of(groups: RolloutGroups, **options: Any) -> Tensor:
    return collaborative(groups, CollaborativeOptions(**options), CONTEXT)


def test_raw_scores_are_those_of_the_groups_own_history() -> None:
    groups = groups_of([[3, 0], [3, 0]], history=[[2, -1], [7, 5]])
    assert of(groups, normalise="raw").tolist() == [[5, 2], [10, 7]]


def test_a_slate_is_scored_by_the_mean_of_its_distinct_items() -> None:
    groups = groups_of([[[2, 4], [2, 2], [6, -1]]], history=[[0]])
    assert of(groups, normalise="raw").tolist() == [[3, 2, 6]]


def test_z_scores_are_the_groups_own() -> None:
    groups = groups_of([[0, 1, 2, 9], [5, 5, 5, 5]], history=[[3], [0]], exists=[[True] * 3 + [False], [True] * 4])
    assert of(groups)[0].tolist() == pytest.approx([-1, 0, 1, 0], abs=2e-6)
    assert of(groups)[1].tolist() == [0, 0, 0, 0]


def test_the_softmax_is_of_z_scores_and_sums_to_one_over_what_exists() -> None:
    groups = groups_of([[0, 1, 2, 9]], exists=[[True] * 3 + [False]])
    weights = [math.exp(-2), 1, math.exp(2)]
    expected = [weight / sum(weights) for weight in weights]
    assert of(groups, normalise="softmax", temperature=0.5)[0].tolist() == pytest.approx([*expected, 0], abs=1e-6)


@pytest.mark.parametrize("normalise", ["zscore", "softmax", "raw"])
def test_a_response_without_an_item_can_not_be_scored_and_one_that_is_missing_earns_nothing(normalise: str) -> None:
    groups = groups_of([[4, -1, 8, -1]], history=[[0]], exists=[[True, True, True, False]])
    without = groups_of([[4, 8]], history=[[0]])
    value = of(groups, normalise=normalise)[0]
    assert value[1].isnan()
    assert value[3] == 0
    torch.testing.assert_close(value[[0, 2]], of(without, normalise=normalise)[0])
    nothing = of(groups_of([[-1, -1]], exists=[[True, False]]), normalise=normalise)[0]
    assert nothing[0].isnan()
    assert nothing[1] == 0


def test_the_scorer_is_the_one_of_the_options() -> None:
    ASKED.clear()
    of(groups_of([[1, 2]]))
    of(groups_of([[1, 2]]), scorer={"kind": "item_knn", "window": 2})
    default, chosen = ASKED
    assert (default.kind, default.given) == ("sasrec", {})
    assert (chosen.kind, chosen.given) == ("item_knn", {"window": 2})
