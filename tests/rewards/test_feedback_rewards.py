"""The rewards that read an environment's answers: click, duration, comment."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from groups_of import REWARD_CONTEXT, groups_of

from recrl.environments.base import Feedback
from recrl.rewards.base import RewardContext, RewardOptions
from recrl.rewards.click import ClickOptions, click
from recrl.rewards.comment import comment
from recrl.rewards.duration import DurationOptions, duration

SLATES = groups_of([[[1, 2], [3, 3]]])
"""One prompt; the second slate names an item twice, which counts once."""
CLICKED = torch.tensor([[[True, False], [True, True]]])
WATCH_S = torch.tensor([[[30.0, 0.0], [600.0, 600.0]]])


def context(rejected: torch.Tensor | None = None) -> RewardContext:
    none = torch.zeros_like(CLICKED)
    return replace(REWARD_CONTEXT, feedback=Feedback(CLICKED, WATCH_S, CLICKED, none if rejected is None else rejected))


def test_click_is_the_share_of_distinct_items_less_what_rejections_cost() -> None:
    assert click(SLATES, ClickOptions(), context()).tolist() == [[0.5, 1.0]]
    rejected = torch.tensor([[[False, True], [False, False]]])
    assert click(SLATES, ClickOptions(rejection_cost=0.6), context(rejected)).tolist() == [
        [pytest.approx(0.5 - 0.3), 1.0]
    ]


def test_duration_is_in_units_and_bounded() -> None:
    assert duration(SLATES, DurationOptions(unit_s=60.0, longest=3.0), context()).tolist() == [[0.25, 3.0]]


def test_comment_is_the_share_of_distinct_items() -> None:
    assert comment(SLATES, RewardOptions(), context()).tolist() == [[0.5, 1.0]]
