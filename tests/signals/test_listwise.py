"""Softmax cross-entropy over a list: its advantages are a gradient, and what is missing is no part of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from groups_of import context, groups_of
from torch import Tensor

from recrl.groups.rollout import Signal
from recrl.signals.listwise import ListwiseOptions, listwise


def signal(rewards: list[list[float]], logp: list[list[float]], *, exists: Any = None, **options: Any) -> Signal:
    groups = groups_of([list(range(len(row))) for row in rewards], exists=exists)
    first = torch.zeros_like(groups.logp)
    first[..., 0] = torch.tensor(logp)
    given = torch.tensor(rewards).unsqueeze(-1)
    return listwise(replace(groups, logp=first), given, torch.ones(1), ListwiseOptions(**options), context({"seen": 1}))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_advantages_are_the_gradient_of_the_logarithm_of_the_lists_expected_reward(temperature: float) -> None:
    logp, rewards = [[-1.0, -2.0, -4.0, -9.0], [-3.0, -0.5, -6.0, -6.0]], [[0.0, 1.0, 0.0, 0.0], [0.2, 0.0, 3.0, 1.0]]
    made = signal(rewards, logp, temperature=temperature)
    given = torch.tensor(logp, requires_grad=True)
    expected: Tensor = ((given / temperature).softmax(-1) * torch.tensor(rewards)).sum(-1).log().sum()
    expected.backward()
    assert given.grad is not None
    torch.testing.assert_close(made.advantage, given.grad * temperature)
    torch.testing.assert_close(made.advantage.sum(1), torch.zeros(2), atol=1e-6, rtol=0)
    assert made.active.all()
    assert made.state == {"seen": 1}


@pytest.mark.parametrize(("weight", "temperature"), [(0.0, 1.0), (0.5, 1.0), (8.0, 8.0)])
def test_the_temperature_is_the_memorys_weight_unless_another_is_given(weight: float, temperature: float) -> None:
    groups = groups_of([[0, 1, 2]])
    groups = replace(groups, logp=torch.randn(groups.logp.shape, generator=torch.Generator().manual_seed(1)))
    rewards = torch.tensor([[[1.0], [0.0], [0.0]]])
    surroundings = replace(context(), memory_weight=weight)
    made, given = (
        listwise(groups, rewards, torch.ones(1), options, surroundings).advantage
        for options in (ListwiseOptions(), ListwiseOptions(temperature=temperature))
    )
    assert torch.equal(made, given)


def test_a_response_is_pushed_down_by_what_the_policy_gives_it() -> None:
    advantage = signal([[1.0, 0.0, 0.0]], [[-2.0, -1.0, -14.0]]).advantage[0]
    assert advantage[1] < -0.5
    assert -1e-5 < advantage[2] < 0


def test_groups_that_are_all_alike_say_nothing() -> None:
    made = signal([[0.0, 0.0], [2.0, 2.0], [-1.0, -3.0]], [[-1.0, -2.0]] * 3)
    assert not made.active.any()
    assert (made.advantage == 0).all()


def test_a_reward_below_0_counts_as_none() -> None:
    made, plain = (signal([[1.0, low]], [[-1.0, -2.0]]) for low in (-5.0, 0.0))
    assert torch.equal(made.advantage, plain.advantage)


def test_what_is_missing_or_can_not_be_scored_takes_no_share() -> None:
    made = signal([[1.0, 0.0, 0.0, float("nan")]], [[-1.0, -2.0, 0.0, 0.0]], exists=[[True, True, False, True]])
    alone = signal([[1.0, 0.0]], [[-1.0, -2.0]])
    torch.testing.assert_close(made.advantage[:, :2], alone.advantage)
    assert made.advantage[0, 2:].tolist() == [0, 0]
    assert made.active.tolist() == [[True, True, False, False]]
    nothing = signal([[1.0, 0.0]], [[-1.0, -2.0]], exists=[[False, False]])
    assert not nothing.active.any()
    assert torch.isfinite(nothing.advantage).all()
