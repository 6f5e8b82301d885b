"""The target against random items."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from worlds import tiny_codes, tiny_policy, tiny_prompts

from recrl.groups import RolloutGroups, Targets
from recrl.rollout.base import RolloutContext
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


def test_every_item_is_as_likely_as_another() -> None:
    known = torch.tensor([[7, -1]]).expand(20_000, -1)
    counts = draw(known, 20, 3, seed=0).flatten().bincount(minlength=20)
    assert counts[7] == 0
    share = counts[counts > 0] / 60_000
    assert ((share - 1 / 19).abs() < 0.005).all()  # five standard errors
