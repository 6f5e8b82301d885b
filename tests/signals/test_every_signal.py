"""What holds for every signal of the table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from groups_of import context, groups_of
from torch import Tensor

from recrl.groups.rollout import RolloutGroups, Signal
from recrl.parts import Options, load_part
from recrl.rollout.base import RolloutOptions
from recrl.signals import SIGNALS

ITEMS, PROMPTS, GROUP = 16, 40, 4


def random_groups(slate: int = 1, seed: int = 0) -> tuple[RolloutGroups, Tensor]:
    """Groups with hits and without, with holes, and two rewards of which some are undefined."""
    draw = torch.Generator().manual_seed(seed)
    items = torch.randint(0, ITEMS, (PROMPTS, GROUP, slate), generator=draw)
    targets = torch.randint(0, ITEMS, (PROMPTS, 2), generator=draw)
    targets[::7] = -1
    exists = torch.rand(PROMPTS, GROUP, generator=draw) < 0.8
    exists[3] = False
    groups = groups_of(items.tolist(), targets.tolist(), exists=exists.tolist())
    other = torch.rand(PROMPTS, GROUP, generator=draw)
    other[torch.rand(PROMPTS, GROUP, generator=draw) < 0.1] = float("nan")
    return groups, torch.stack([groups.hits.float(), other], -1)


def run(kind: str, groups: RolloutGroups, rewards: Tensor, weights: tuple[float, float], **options: Any) -> Signal:
    part = load_part(SIGNALS, kind, where="signal")
    made: Signal = part.run(groups, rewards, torch.tensor(weights), part.options(**options), context(seed=5))
    return made


def unrepaired(kind: str) -> dict[str, Any]:
    return {"repair": "never"} if "repair" in load_part(SIGNALS, kind, where="signal").options.model_fields else {}


@pytest.mark.parametrize("kind", SIGNALS)
@pytest.mark.parametrize("slate", [1, 3])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, 0.5), (0.0, 0.0)], ids=["hits", "both", "none"])
def test_advantages_are_finite_and_only_responses_that_exist_are_active(
    kind: str, slate: int, weights: tuple[float, float]
) -> None:
    groups, rewards = random_groups(slate)
    options = {} if slate == 1 else unrepaired(kind)
    made = run(kind, groups, rewards, weights, **options)
    assert made.advantage.shape == made.active.shape == groups.exists.shape
    assert made.advantage.dtype == torch.float32
    assert torch.isfinite(made.advantage).all()
    assert (made.advantage[~groups.exists] == 0).all()
    assert not made.active[~groups.exists].any()
    assert (made.advantage[~made.active] == 0).all()
    assert torch.equal(made.groups.exists, groups.exists)
    assert made.repaired.shape == (PROMPTS,)


@pytest.mark.parametrize("kind", SIGNALS)
def test_what_stands_in_missing_responses_changes_nothing(kind: str) -> None:
    groups, rewards = random_groups()
    items, codes, missing = groups.items.clone(), groups.codes.clone(), ~groups.exists
    items[missing], codes[missing] = 3, 1
    junk = rewards.clone()
    junk[missing] = float("inf")
    first = run(kind, groups, rewards, (1.0, 0.5))
    second = run(kind, replace(groups, items=items, codes=codes), junk, (1.0, 0.5))
    assert torch.equal(first.advantage, second.advantage)
    assert torch.equal(first.active, second.active)


@pytest.mark.parametrize("kind", SIGNALS)
def test_a_hit_never_stands_below_a_miss_of_its_group(kind: str) -> None:
    groups, rewards = random_groups()
    made = run(kind, groups, rewards, (1.0, 0.0), **unrepaired(kind))
    assert made.active.any()
    for row in range(PROMPTS):
        hits, misses = (made.advantage[row, made.active[row] & side[row]] for side in (groups.hits, ~groups.hits))
        assert not len(hits) or not len(misses) or hits.min() > misses.max()


@pytest.mark.parametrize("kind", SIGNALS)
def test_repair_refuses_slates_and_the_others_take_them(kind: str) -> None:
    part = load_part(SIGNALS, kind, where="signal")
    single, slates = RolloutOptions(), RolloutOptions(slate_size=6)

    def reason(options: Options, rollout: RolloutOptions) -> str:
        return part.refuses(options, rollout) if part.refuses else ""

    assert not reason(part.options(), single)
    assert not reason(part.options(**unrepaired(kind)), slates)
    assert bool(reason(part.options(), slates)) == (kind in {"recast", "repair_only"})
