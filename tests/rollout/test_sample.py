"""Legal sampling against the policy's own probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from worlds import tiny_policy, tiny_prompts

from recrl.backends.torch_backend import TransformersPolicy
from recrl.rollout.beam import beam_search
from recrl.rollout.responses import Responses
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


def test_prompts_that_are_sampled_in_parts_get_the_responses_that_they_get_together() -> None:
    policy = tiny_policy()
    prompts = tiny_prompts(policy, [4, 4, 4])
    options = SampleOptions(group_size=6)
    together = sample(policy, policy.trie, prompts, options, seed=1)
    for place in range(3):
        alone = sample(policy, policy.trie, prompts.select(torch.tensor([place])), options, seed=1, first=place)
        assert torch.equal(alone.items[0], together.items[place])


def test_log_probabilities_are_the_policys_own_whatever_the_temperature() -> None:
    policy = tiny_policy(items=6, space="legal")
    prompts = tiny_prompts(policy, [4], items=6)
    exact = beam_search(policy, policy.trie, prompts, 6)
    own = torch.zeros(6).scatter(0, exact.items[0, :, 0], exact.score[0])
    drawn = sample(policy, policy.trie, prompts, SampleOptions(group_size=12, temperature=5.0, top_k=2), 0)
    torch.testing.assert_close(drawn.score[0], own[drawn.items[0, :, 0]], atol=1e-4, rtol=1e-4)


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


def item_probability(found: Responses, items: int, options: SampleOptions) -> torch.Tensor:
    """[items] from one prompt's log-probabilities of every item's tokens, each node by itself."""
    choices: dict[int, dict[int, float]] = {}
    paths = []
    for tokens, nodes, logps in zip(found.tokens[0], found.nodes[0], found.logps[0], strict=True):
        path = [(int(n), int(t), float(p)) for n, t, p in zip(nodes, tokens, logps, strict=True) if t >= 0]
        paths.append(path)
        for node, token, logp in path:
            choices.setdefault(node, {})[token] = logp
    chance: dict[tuple[int, int], float] = {}
    for node, tokens_here in choices.items():
        kept = sorted(tokens_here, key=lambda token: -tokens_here[token])[: options.top_k or None]
        shares = (torch.tensor([tokens_here[token] for token in kept]) / options.temperature).softmax(0)
        chance |= {(node, token): share for token, share in zip(kept, shares.tolist(), strict=True)}
    probability = torch.zeros(items)
    for item, path in zip(found.items[0, :, 0].tolist(), paths, strict=True):
        probability[item] = torch.tensor([chance.get((node, token), 0.0) for node, token, _ in path]).prod()
    return probability


@pytest.mark.parametrize("options", [{"top_k": 2}, {"temperature": 3.0}, {"top_k": 2, "temperature": 3.0}], ids=str)
@pytest.mark.parametrize("space", ["raw", "legal"])
def test_top_k_and_temperature_renormalise_over_what_is_left(space: str, options: dict[str, float]) -> None:
    policy = tiny_policy(items=12, space=space)
    prompts = tiny_prompts(policy, [4], items=12)
    chosen = SampleOptions.model_validate({"group_size": 20_000, **options})
    expected = item_probability(beam_search(policy, policy.trie, prompts, 12), 12, chosen)
    torch.testing.assert_close(expected.sum(), torch.tensor(1.0), atol=1e-4, rtol=0)
    drawn = sample(policy, policy.trie, prompts, chosen, 0)
    share = drawn.items[0, :, 0].bincount(minlength=12) / 20_000
    assert (share - expected).abs().max() < 0.015
    assert (share[expected == 0] == 0).all()


def test_a_top_k_above_the_fan_out_leaves_all() -> None:
    policy = tiny_policy()
    prompts = tiny_prompts(policy, [4, 6])
    every, most = (sample(policy, policy.trie, prompts, SampleOptions(group_size=9, top_k=k), 0) for k in (0, 99))
    assert torch.equal(every.tokens, most.tokens)


def test_samples_of_a_guided_prompt_go_on_below_its_node_as_often_as_beams_say() -> None:
    policy = tiny_policy(items=20, space="legal")
    prompts = tiny_prompts(policy, [4], items=20)
    node = policy.trie.child(policy.trie.start[:1])  # behind the first token
    deeper = replace(prompts, start=node)
    exact = beam_search(policy, policy.trie, deeper, 20)
    drawn = sample(policy, policy.trie, deeper, SampleOptions(group_size=20_000), 0)
    assert (drawn.nodes[..., 0] == node).all()
    real = exact.exists[0]
    probability = torch.zeros(20).scatter(0, exact.items[0, real, 0], exact.score[0, real].exp())
    share = drawn.items[0, :, 0].bincount(minlength=20) / 20_000
    assert (share - probability).abs().max() < 0.015


@pytest.mark.parametrize("space", ["raw", "legal"])
def test_a_prompt_that_gives_the_whole_answer_has_named_it(space: str) -> None:
    policy = tiny_policy(space=space)
    prompts = tiny_prompts(policy, [4, 6])
    prompts = replace(prompts, start=torch.stack([policy.trie.leaf[0, 3], torch.tensor(0)]))
    drawn = sample(policy, policy.trie, prompts, SampleOptions(group_size=5), 0)
    assert drawn.items[0, :, 0].tolist() == [3] * 5
    assert (drawn.tokens[0] == -1).all()
    assert (drawn.score[0] == 0).all()
    assert (drawn.items[1] >= 0).all()


def test_titles_and_sids_are_drawn_as_if_alone(titled: Callable[..., TransformersPolicy]) -> None:
    policy = titled(items=12, space="legal")
    prompts = replace(tiny_prompts(policy, [4, 4], items=12), start=torch.tensor([0, 1]))
    drawn = sample(policy, policy.trie, prompts, SampleOptions(group_size=20_000), 0)
    for row in range(2):
        exact = beam_search(policy, policy.trie, prompts.select(torch.tensor([row])), 12)
        real = exact.exists[0]
        probability = torch.zeros(12).scatter(0, exact.items[0, real, 0], exact.score[0, real].exp())
        share = drawn.items[row, :, 0].bincount(minlength=12) / 20_000
        assert (share - probability).abs().max() < 0.015
        torch.testing.assert_close(probability.sum(), torch.tensor(1.0), atol=1e-4, rtol=0)
