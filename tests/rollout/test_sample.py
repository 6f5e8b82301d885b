"""Legal sampling against the policy's own probabilities."""

from __future__ import annotations

import torch
from worlds import tiny_policy, tiny_prompts

from recrl.rollout.beam import beam_search
from recrl.rollout.sample import SampleOptions, sample


def test_samples_are_legal_and_repeat_under_a_seed() -> None:
    policy = tiny_policy()
    prompts = tiny_prompts(policy, [4, 6])
    options = SampleOptions(group_size=12)
    first, again, other = (sample(policy, policy.trie, prompts, options, seed) for seed in (1, 1, 2))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    lengths = (first.tokens >= 0).sum(-1)
    walked = policy.trie.walk(first.tokens.clamp(min=0).flatten(0, 1), lengths.flatten())
    assert torch.equal(walked, first.items.flatten())
    assert (first.items >= 0).all()


def test_frequencies_follow_the_legal_distribution() -> None:
    policy = tiny_policy(items=6, space="legal")
    prompts = tiny_prompts(policy, [4], items=6)
    exact = beam_search(policy, policy.trie, prompts, 6)
    probability = torch.zeros(6).scatter(0, exact.items[0, :, 0], exact.score[0].exp())
    torch.testing.assert_close(probability.sum(), torch.tensor(1.0), atol=1e-4, rtol=0)
    drawn = sample(policy, policy.trie, prompts, SampleOptions(group_size=20_000), 0)
    share = drawn.items[0, :, 0].bincount(minlength=6) / 20_000
    assert (share - probability).abs().max() < 0.015  # four standard errors at p = .5


def test_a_low_temperature_is_greedy() -> None:
    policy = tiny_policy(items=6, space="legal")
    drawn = sample(
        policy, policy.trie, tiny_prompts(policy, [4], items=6), SampleOptions(group_size=8, temperature=1e-3), 0
    )
    assert len(set(drawn.items[0, :, 0].tolist())) == 1
