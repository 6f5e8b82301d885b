"""Slates, start nodes and several roots, in beams and in samples."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from worlds import tiny_index, tiny_policy, tiny_prompts

from recrl.backends.torch_backend import TransformersPolicy
from recrl.groups.packed import PackedGroups, pack_active
from recrl.groups.rollout import Signal
from recrl.rollout.beam import beam_search
from recrl.rollout.responses import Responses, item_groups
from recrl.rollout.sample import SampleOptions, sample
from recrl.sids.tokens import sid_token_ids


def packed(policy: TransformersPolicy, prompts: object, found: Responses, items: int) -> PackedGroups:
    codes = torch.zeros(items, 3, dtype=torch.long)
    groups = item_groups(prompts, found, codes)  # type: ignore[arg-type]
    return pack_active(Signal(groups, groups.exists.float(), groups.exists, groups.exists.any(1)), policy.ops)


def plain_score(policy: TransformersPolicy, head: Tensor, response: Tensor) -> float:
    """Raw log-probability of a response behind a prompt, by one plain forward."""
    logits = policy.model(torch.cat([head, response])[None]).logits[0, len(head) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, response[:, None]).sum())


@torch.no_grad()
@pytest.mark.parametrize("root", [0, 1], ids=["SIDs", "titles"])
def test_a_wide_beam_finds_every_slate_in_the_order_of_its_probability(
    titled: Callable[..., TransformersPolicy], root: int
) -> None:
    policy = titled(items=5)
    named = policy.trie.item[policy.trie.leaf[root]].unique().tolist()
    slates = list(itertools.product(named, repeat=2))
    prompts = replace(tiny_prompts(policy, [4, 6], items=5), start=torch.tensor([root, root]))
    found = beam_search(policy, policy.trie, prompts, len(slates), slate_size=2)
    paths = [row[row >= 0] for row in policy.trie.paths(torch.arange(5), root)[0]]
    policy.model.set_attn_implementation("eager")
    assert found.exists.all()
    for row in range(2):
        head = prompts.ids[row, : prompts.length[row]]
        scores = {pair: plain_score(policy, head, torch.cat([paths[item] for item in pair])) for pair in slates}
        order = sorted(scores, key=lambda pair: -scores[pair])
        assert list(map(tuple, found.items[row].tolist())) == order
        assert found.score[row].tolist() == pytest.approx([scores[pair] for pair in order], abs=1e-3)
        for place, pair in enumerate(order):
            tokens = found.tokens[row, place]
            assert tokens[tokens >= 0].tolist() == torch.cat([paths[item] for item in pair]).tolist()


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
@pytest.mark.parametrize("given", [1, 2, 3])
@pytest.mark.parametrize("space", ["raw", "legal"])
def test_responses_that_start_below_a_node_are_those_that_pass_it(space: str, given: int) -> None:
    policy = tiny_policy(items=30, space=space)
    prompts = tiny_prompts(policy, [4], items=30)
    whole = beam_search(policy, policy.trie, prompts, 30)
    # The longest item: behind its first three tokens only suffixes are left.
    path = whole.tokens[0, (whole.tokens[0] >= 0).sum(-1).argmax()]
    node = torch.zeros(1, dtype=torch.long)
    for token in path[:given]:
        node = policy.trie.step(node, token[None])
    ids = torch.cat([prompts.ids, path[:given].unsqueeze(0)], 1)
    deeper = replace(prompts, ids=ids, length=prompts.length + given, start=node)
    rest = beam_search(policy, policy.trie, deeper, 30)
    below = (whole.tokens[0, :, :given] == path[:given]).all(-1)
    assert rest.items[0, :, 0][rest.exists[0]].tolist() == whole.items[0, below, 0].tolist()
    expected = whole.logps[0, below, given:].sum(1)
    torch.testing.assert_close(rest.score[0, rest.exists[0]], expected, atol=1e-4, rtol=1e-4)
    assert (rest.nodes[0, rest.exists[0], 0] == node).all()


@torch.no_grad()
@pytest.mark.parametrize("space", ["raw", "legal"])
def test_prompts_of_two_roots_share_a_batch(titled: Callable[..., TransformersPolicy], space: str) -> None:
    policy = titled(items=12, space=space)
    trie = policy.trie
    prompts = replace(tiny_prompts(policy, [4, 4, 6], items=12), start=torch.tensor([0, 1, 1]))
    both = beam_search(policy, trie, prompts, 12)
    for row, root in enumerate((0, 1, 1)):
        alone = beam_search(policy, trie, prompts.select(torch.tensor([row])), 12)
        real = both.exists[row]
        assert torch.equal(both.items[row, real], alone.items[0, alone.exists[0]])
        torch.testing.assert_close(both.score[row, real], alone.score[0, alone.exists[0]], atol=1e-4, rtol=1e-4)
        # Where two items are called alike, the lower one stands for both.
        assert set(both.items[row, real, 0].tolist()) == set(trie.item[trie.leaf[root]].tolist())
    assert both.exists.sum(1).tolist() == [12, 10, 10]


def test_top_k_draws_among_the_most_likely_alone() -> None:
    policy = tiny_policy(items=30)
    prompts = tiny_prompts(policy, [4], items=30)
    drawn = sample(policy, policy.trie, prompts, SampleOptions(group_size=400, top_k=1), 0)
    assert len(set(drawn.items[0, :, 0].tolist())) == 1
    spread = sample(policy, policy.trie, prompts, SampleOptions(group_size=400, top_k=2), 0)
    assert all(len(set(spread.tokens[0, :, step].tolist())) <= 2 ** (step + 1) for step in range(3))
    assert len(set(spread.tokens[0, :, 0].tolist())) == 2
