"""Dynamic sampling: which samples stay."""

from __future__ import annotations

import torch
from worlds import tiny_codes, tiny_policy, tiny_prompts

from recrl.rollout.base import RolloutContext
from recrl.rollout.dynamic import rollout, spread
from recrl.rollout.sample import SampleOptions


def taken(names: str, hits: str = "") -> str:
    """Samples named by letters, in the order in which they are taken."""
    tokens = torch.tensor([[[ord(name)] for name in names]])
    hit = torch.tensor([[name in hits for name in names]])
    return "".join(names[place] for place in spread(tokens, hit)[0].tolist())


def test_one_copy_of_each_by_frequency_then_second_copies() -> None:
    assert taken("abbcba") == "bacbab"
    assert taken("abc") == "abc"


def test_the_target_comes_first_once() -> None:
    assert taken("abbcc", hits="a") == "abcbc"
    assert taken("bbaa", hits="a") == "abab"


def test_a_group_is_distinct_where_enough_distinct_items_were_drawn() -> None:
    policy = tiny_policy(items=40)
    prompts = tiny_prompts(policy, [4, 7, 2])
    context = RolloutContext(policy, policy.trie, tiny_codes(), seed=3)
    groups = rollout(prompts, SampleOptions(group_size=6), context)
    again = rollout(prompts, SampleOptions(group_size=6), context)
    assert torch.equal(groups.tokens, again.tokens)
    assert groups.items.shape == (3, 6, 1)
    for row in range(3):
        items = groups.items[row, :, 0].tolist()
        distinct = len(set(items))
        assert len(set(items[:distinct])) == distinct
