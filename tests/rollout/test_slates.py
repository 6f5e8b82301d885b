"""Slates, start nodes and several roots, in beams and in samples."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from worlds import tiny_index, tiny_policy, tiny_prompts

from recrl.backends.torch_backend import TransformersPolicy
from recrl.data.ragged import Ragged
from recrl.groups import PackedGroups, Signal, pack_active
from recrl.rollout.beam import beam_search
from recrl.rollout.responses import Responses, item_groups
from recrl.rollout.sample import SampleOptions, sample
from recrl.sids.tokens import sid_token_ids
from recrl.sids.trie import build_trie


def packed(policy: TransformersPolicy, prompts: object, found: Responses, items: int) -> PackedGroups:
    codes = torch.zeros(items, 3, dtype=torch.long)
    groups = item_groups(prompts, found, codes)  # type: ignore[arg-type]
    return pack_active(Signal(groups, groups.exists.float(), groups.exists, groups.exists.any(1)), policy.ops)


@torch.no_grad()
def test_a_wide_beam_finds_every_slate_with_its_own_log_probability() -> None:
    policy = tiny_policy(items=5)
    prompts = tiny_prompts(policy, [4, 6], items=5)
    found = beam_search(policy, policy.trie, prompts, 25, slate_size=2)
    assert found.exists.all()
    for row in range(2):
        assert set(map(tuple, found.items[row].tolist())) == set(itertools.product(range(5), repeat=2))
    assert (found.score[:, :-1] >= found.score[:, 1:] - 1e-6).all()
    batch = packed(policy, prompts, found, 5)
    again, _ = policy.logp(batch)
    torch.testing.assert_close(again.sum(1).view(2, 25), found.score, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("space", ["raw", "legal"])
def test_sampled_slates_name_as_many_items_with_the_actors_log_probabilities(space: str) -> None:
    policy = tiny_policy(items=30, space=space)
    prompts = tiny_prompts(policy, [4, 6], items=30)
    drawn = sample(policy, policy.trie, prompts, SampleOptions(group_size=7, slate_size=3), 0)
    assert drawn.items.shape == (2, 7, 3)
    assert (drawn.items >= 0).all()
    rows = sid_token_ids(policy.tokenizer, tiny_index(30))
    for row, place in itertools.product(range(2), range(7)):
        spelled = [int(token) for item in drawn.items[row, place] for token in rows[int(item)]]
        tokens = drawn.tokens[row, place]
        assert tokens[tokens >= 0].tolist() == spelled
    batch = packed(policy, prompts, drawn, 30)
    again, _ = policy.logp(batch)
    torch.testing.assert_close(again, drawn.logps.flatten(0, 1) * batch.mask, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_responses_that_start_below_a_node_are_those_that_pass_it() -> None:
    policy = tiny_policy(items=30)
    prompts = tiny_prompts(policy, [4], items=30)
    whole = beam_search(policy, policy.trie, prompts, 30)
    first = whole.tokens[0, 0, 0]
    node = policy.trie.step(torch.zeros(1, dtype=torch.long), first.unsqueeze(0))
    ids = torch.cat([prompts.ids, first.view(1, 1)], 1)
    deeper = replace(prompts, ids=ids, length=prompts.length + 1, start=node)
    rest = beam_search(policy, policy.trie, deeper, 30)
    below = whole.tokens[0, :, 0] == first
    assert rest.items[0, :, 0][rest.exists[0]].tolist() == whole.items[0, below, 0].tolist()
    expected = whole.logps[0, below, 1:].sum(1)
    torch.testing.assert_close(rest.score[0, rest.exists[0]], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_prompts_of_two_roots_share_a_batch() -> None:
    policy = tiny_policy(items=6)
    rows = sid_token_ids(policy.tokenizer, tiny_index(6))
    titles = Ragged.from_lists([[4 + item, 5, 4] for item in range(5)] + [[4, 5, 4]])
    trie = build_trie(rows, titles)
    policy.trie = trie
    prompts = replace(tiny_prompts(policy, [4, 4], items=6), start=torch.tensor([0, 1]))
    found = beam_search(policy, trie, prompts, 6)
    assert set(found.items[0, :, 0].tolist()) == set(range(6))
    assert set(found.items[1, :, 0][found.exists[1]].tolist()) == set(range(5))  # the last title equals the first
    drawn = sample(policy, trie, prompts, SampleOptions(group_size=8), 0)
    for place in range(8):
        tokens, item = drawn.tokens[1, place], int(drawn.items[1, place, 0])
        assert tokens[tokens >= 0].tolist() == titles[item].tolist()


def test_top_k_draws_among_the_most_likely_alone() -> None:
    policy = tiny_policy(items=30)
    prompts = tiny_prompts(policy, [4], items=30)
    drawn = sample(policy, policy.trie, prompts, SampleOptions(group_size=400, top_k=1), 0)
    assert len(set(drawn.items[0, :, 0].tolist())) == 1
    spread = sample(policy, policy.trie, prompts, SampleOptions(group_size=400, top_k=2), 0)
    assert all(len(set(spread.tokens[0, :, step].tolist())) <= 2 ** (step + 1) for step in range(3))
    assert len(set(spread.tokens[0, :, 0].tolist())) == 2
