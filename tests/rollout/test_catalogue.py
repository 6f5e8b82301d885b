"""The target against random items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from worlds import tiny_codes, tiny_policy, tiny_prompts

from recrl.backends.torch_backend import TransformersPolicy
from recrl.groups.prompts import Targets
from recrl.groups.rollout import RolloutGroups
from recrl.rollout.base import RolloutContext, generators
from recrl.rollout.catalogue import CatalogueOptions, draw, rollout


def groups_of(items: int, targets: list[list[int]], history: list[list[int]], group: int, seed: int) -> RolloutGroups:
    policy = tiny_policy(items=items)
    prompts = tiny_prompts(policy, [4] * len(targets), items=items)
    asked = torch.tensor(targets)
    codes = torch.where((asked >= 0).unsqueeze(-1), tiny_codes(items)[asked.clamp(min=0)], -1)
    prompts = replace(prompts, targets=Targets(asked, codes), history=torch.tensor(history))
    return rollout(
        prompts, CatalogueOptions(group_size=group), RolloutContext(policy, policy.trie, tiny_codes(items), seed)
    )


@pytest.mark.parametrize("items", [9, 40])
def test_negatives_are_distinct_and_neither_targets_nor_taken(items: int) -> None:
    targets, history = [[3, 5], [1, -1]], [[0, 2], [4, -1]]
    groups = groups_of(items, targets, history, 5, seed=1)
    assert groups.exists.all()
    assert groups.items[:, 0, 0].tolist() == [3, 1]
    for row in range(2):
        others = groups.items[row, 1:, 0].tolist()
        assert len(set(others)) == 4
        assert not set(others) & {*targets[row], *history[row]}
    assert groups.hits.sum(1).tolist() == [1, 1]
    assert (groups.logp == 0).all()


def test_a_seed_repeats_and_another_differs() -> None:
    first, again, other = (groups_of(40, [[3]], [[0]], 4, seed) for seed in (1, 1, 2))
    assert torch.equal(first.items, again.items)
    assert not torch.equal(first.items, other.items)


def test_a_prompt_without_a_target_has_no_responses_and_a_small_catalogue_fewer() -> None:
    groups = groups_of(6, [[-1], [2]], [[-1, -1], [0, 1]], 8, seed=0)
    assert not groups.exists[0].any()
    assert groups.exists[1].sum() == 1 + 3  # items 3, 4, 5
    assert set(groups.items[1, :, 0][groups.exists[1]].tolist()) == {2, 3, 4, 5}


@pytest.mark.parametrize("items", [8, 40], ids=["drawn in full", "drawn with spares"])
def test_every_item_is_as_likely_as_another(items: int) -> None:
    known = torch.tensor([[7, -1]]).expand(20_000, -1)
    eligible = torch.ones(2, items, dtype=torch.bool)
    eligible[1, 2] = False
    root = torch.ones(20_000, 1, dtype=torch.long)
    counts = draw(known, eligible, root, 3, generators(0, 0, len(known))).flatten().bincount(minlength=items)
    assert counts[7] == counts[2] == 0
    share = counts[counts > 0] / 60_000
    assert ((share - 1 / (items - 2)).abs() < 0.007).all()  # five standard errors


def test_an_item_that_is_called_like_another_is_no_second_one(titled: Callable[..., TransformersPolicy]) -> None:
    """Items 3 and 4 are called alike, and 8 and 9: as titles neither of a pair stands against the other."""
    policy = titled(items=10)
    prompts = tiny_prompts(policy, [4] * 4, items=10)
    target = torch.tensor([[3], [0], [4], [4]])
    history = torch.tensor([[-1], [9], [8], [8]])
    prompts = replace(
        prompts, start=torch.tensor([1, 1, 1, 0]), targets=Targets(target, tiny_codes(10)[target]), history=history
    )
    groups = rollout(
        prompts, CatalogueOptions(group_size=12), RolloutContext(policy, policy.trie, tiny_codes(10), seed=0)
    )
    pairs = zip(groups.items[..., 0], groups.exists, strict=True)
    assert [set(items[exists].tolist()) for items, exists in pairs] == [
        {0, 1, 2, 3, 5, 6, 7, 8},
        {0, 1, 2, 3, 5, 6, 7},
        {0, 1, 2, 4, 5, 6, 7},
        {0, 1, 2, 3, 4, 5, 6, 7, 9},
    ]
    for row in range(4):
        texts = {tuple(tokens.tolist()) for tokens in groups.tokens[row][groups.exists[row]]}
        assert len(texts) == groups.exists[row].sum()
