"""Plain signs: weights, groups of one kind, what is not there."""

from __future__ import annotations

from typing import Any

import torch
from groups_of import context, groups_of

from recrl.groups.rollout import Signal
from recrl.signals.sign import SignOptions, sign


def signal(rewards: list[list[float]], *, exists: list[list[bool]] | None = None, **options: Any) -> Signal:
    groups = groups_of([list(range(len(row))) for row in rewards], exists=exists)
    return sign(
        groups, torch.tensor(rewards).unsqueeze(-1), torch.ones(1), SignOptions(**options), context({"seen": 1})
    )


def test_a_hit_is_plus_one_and_a_miss_minus_one_whatever_the_rewards_size() -> None:
    made = signal([[1.0, 0.0, 0.0, 0.0], [0.2, 9.0, 0.0, -3.0]])
    assert made.advantage.tolist() == [[1, -1, -1, -1], [1, 1, -1, -1]]
    assert made.active.all()
    assert made.state == {"seen": 1}
    assert not made.repaired.any()


def test_groups_of_hits_or_misses_alone_are_left_out_unless_they_are_asked_for() -> None:
    rewards = [[1.0, 1.0], [0.0, 0.0]]
    made = signal(rewards)
    assert (made.advantage == 0).all()
    assert not made.active.any()
    kept = signal(rewards, drop_one_sided=False)
    assert kept.advantage.tolist() == [[1, 1], [-1, -1]]
    assert kept.active.all()


def test_weights_scale_either_side_and_zero_leaves_it_out() -> None:
    assert signal([[1.0, 0.0]], positive_weight=2.0, negative_weight=0.5).advantage.tolist() == [[2, -0.5]]
    positive_only = signal([[1.0, 0.0, 0.0]], negative_weight=0.0)
    assert positive_only.advantage.tolist() == [[1, 0, 0]]
    assert positive_only.active.tolist() == [[True, False, False]]


def test_what_is_missing_or_can_not_be_scored_is_neither() -> None:
    made = signal([[1.0, 0.0, 0.0, float("nan")]], exists=[[True, True, False, True]])
    assert made.advantage.tolist() == [[1, -1, 0, 0]]
    assert made.active.tolist() == [[True, True, False, False]]
    # Neither makes a group two-sided.
    assert not signal([[1.0, 0.0, float("nan")]], exists=[[True, False, True]]).active.any()
