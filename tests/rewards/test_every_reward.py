"""What holds for every reward of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from groups_of import REWARD_CONTEXT, groups_of
from torch import Tensor

from recrl.environments.base import Feedback
from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Choice, load_part
from recrl.rewards import REWARDS
from recrl.rewards.base import RewardOptions

ITEMS, PROMPTS, GROUP = 16, 6, 5


def scorer(choice: Choice) -> Callable[[PromptBatch], Tensor]:  # noqa: ARG001
    return lambda prompts: torch.linspace(-1, 2, ITEMS).expand(len(prompts), -1)


CONTEXT = replace(REWARD_CONTEXT, scorer=scorer)


def random_groups(slate: int, seed: int = 0) -> RolloutGroups:
    """Every response that exists names an item; the last prompt asks for nothing and the last response is missing."""
    draw = torch.Generator().manual_seed(seed)
    items = torch.randint(0, ITEMS, (PROMPTS, GROUP, slate), generator=draw)
    targets = torch.randint(-1, ITEMS, (PROMPTS, 3), generator=draw).sort(1, descending=True).values
    targets[-1] = -1
    exists = torch.rand(PROMPTS, GROUP, generator=draw) < 0.8
    exists[:, -1] = False
    return groups_of(items.tolist(), targets.tolist(), exists=exists.tolist(), history=[[0]] * PROMPTS)


def of(kind: str, groups: RolloutGroups) -> Tensor:
    part = load_part(REWARDS, kind, where="rewards")
    shown = groups.exists.unsqueeze(-1) & (groups.items >= 0)
    clicked = shown & (groups.items % 2 == 0)
    feedback = Feedback(clicked, clicked * 20.0, clicked & (groups.items > 8), shown & ~clicked)
    value: Tensor = part.run(groups, part.options(), replace(CONTEXT, feedback=feedback))
    return value


@pytest.mark.parametrize("kind", REWARDS)
@pytest.mark.parametrize("slate", [1, 3])
def test_it_is_a_finite_number_a_response_and_nothing_for_one_that_is_missing(kind: str, slate: int) -> None:
    groups = random_groups(slate)
    value = of(kind, groups)
    assert value.shape == (PROMPTS, GROUP)
    assert value.dtype == torch.float32
    assert torch.isfinite(value).all()
    assert (value[~groups.exists] == 0).all()


@pytest.mark.parametrize("kind", REWARDS)
def test_what_stands_in_a_missing_response_changes_nothing(kind: str) -> None:
    groups = random_groups(2)
    missing = ~groups.exists
    other = replace(groups, items=groups.items.clone(), codes=groups.codes.clone())
    other.items[missing], other.codes[missing] = 3, 1
    torch.testing.assert_close(of(kind, groups), of(kind, other), rtol=0, atol=0)


@pytest.mark.parametrize("kind", REWARDS)
def test_padded_targets_change_nothing(kind: str) -> None:
    groups = random_groups(1)
    asked = groups.prompts.targets
    wider = replace(
        asked,
        items=torch.nn.functional.pad(asked.items, (0, 2), value=-1),
        codes=torch.nn.functional.pad(asked.codes, (0, 0, 0, 2), value=-1),
    )
    padded = replace(groups, prompts=replace(groups.prompts, targets=wider))
    torch.testing.assert_close(of(kind, groups), of(kind, padded), rtol=0, atol=0)


@pytest.mark.parametrize("kind", REWARDS)
def test_its_options_carry_a_weight(kind: str) -> None:
    options = load_part(REWARDS, kind, where="rewards").options
    assert issubclass(options, RewardOptions)
    assert options().weight == 1.0
