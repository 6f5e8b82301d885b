"""Dynamic sampling: which samples stay."""

from __future__ import annotations

from collections import Counter

import torch
from worlds import tiny_codes, tiny_policy, tiny_prompts

from recrl.rollout.base import RolloutContext
from recrl.rollout.dynamic import rollout, spread
from recrl.rollout.sample import SampleOptions, sample


def taken(names: str, hits: str = "") -> str:
    """Samples named by letters, in the order in which they are taken."""
    tokens = torch.tensor([[[ord(name)] for name in names]])
    hit = torch.tensor([[name in hits for name in names]])
    return "".join(names[place] for place in spread(tokens, hit)[0].tolist())


def test_one_copy_of_each_by_frequency_then_second_copies() -> None:
    assert taken("abbcba") == "bacbab"
    assert taken("abc") == "abc"


def test_third_copies_come_behind_all_second_ones() -> None:
    assert taken("abaacbaa") == "abcabaaa"


def test_the_target_comes_first_once() -> None:
    assert taken("abbcc", hits="a") == "abcbc"
    assert taken("bbaa", hits="a") == "abba"  # its second copy has no precedence
    assert taken("bbbacac", hits="ac") == "acbbacb"


def test_half_as_many_again_are_drawn_and_rounded_down() -> None:
    policy = tiny_policy(items=40)
    prompts = tiny_prompts(policy, [4, 7, 2])
    context = RolloutContext(policy, policy.trie, tiny_codes(), seed=3)
    for size in (4, 5):
        drawn = sample(policy, policy.trie, prompts, SampleOptions(group_size=int(1.5 * size)), seed=3)
        groups = rollout(prompts, SampleOptions(group_size=size), context)
        for row in range(3):
            counts = Counter(drawn.items[row, :, 0].tolist())
            kept = Counter(groups.items[row, :, 0].tolist())
            assert kept <= counts
            assert len(kept) == min(size, len(counts))
            target = int(prompts.targets.items[row, 0])
            assert (target in counts) == (target in kept)


def test_temperature_and_top_k_are_those_of_samples() -> None:
    policy = tiny_policy(items=40)
    prompts = tiny_prompts(policy, [4, 7])
    context = RolloutContext(policy, policy.trie, tiny_codes(), seed=0)
    for options in (SampleOptions(group_size=6, top_k=1), SampleOptions(group_size=6, temperature=1e-3)):
        groups = rollout(prompts, options, context)
        assert (groups.items == groups.items[:, :1]).all()
    assert len(rollout(prompts, SampleOptions(group_size=6), context).items[0].unique()) > 1


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
