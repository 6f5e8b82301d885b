"""A policy with a memory: a distribution over the catalogue, decoded and trained as one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from worlds import tiny_policy, tiny_prompts

from recrl.backends.torch_backend import TransformersPolicy
from recrl.groups.packed import PackedGroups
from recrl.groups.prompts import PromptBatch
from recrl.memory.head import HeadShape, MemoryHead
from recrl.memory.recalled import Recalled
from recrl.rollout.beam import beam_search
from recrl.rollout.responses import Responses
from recrl.rollout.sample import SampleOptions, sample

ITEMS = 40
KNOWN = [[3, 17, 25, 30], [0, 39, -1, -1], [-1, -1, -1, -1]]
SHARES = [[0.5, 0.3, 0.1, 0.1], [0.9, 0.1, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
FEATURES = 5


def head(weight: float = 2.0, *, hidden_size: int = 0, floor: float = 1e-3) -> MemoryHead:
    return MemoryHead(HeadShape(weight, floor, FEATURES, hidden_size), seed=0)


def taught() -> MemoryHead:
    """A head whose learned part says something."""
    memory = head(hidden_size=3)
    torch.nn.init.normal_(memory.learned[2].weight, generator=torch.Generator().manual_seed(5))
    return memory


def remembering(memory: MemoryHead | None, **options: object) -> TransformersPolicy:
    return tiny_policy(items=ITEMS, memory=memory, **options)


def prompts_of(policy: TransformersPolicy) -> PromptBatch:
    features = torch.randn(3, 4, FEATURES, generator=torch.Generator().manual_seed(3))
    known = torch.tensor(KNOWN)
    recalled = Recalled(known, torch.tensor(SHARES), torch.where(known.unsqueeze(-1) >= 0, features, 0.0))
    return replace(tiny_prompts(policy, [4, 7, 2]), recalled=recalled)


def all_items(policy: TransformersPolicy, prompts: PromptBatch) -> PackedGroups:
    """Every item as a response to every prompt."""
    rows, items = len(prompts), torch.arange(ITEMS).repeat(len(prompts))
    tokens, nodes = policy.trie.paths(items)
    count = len(items)
    prompt_of = torch.arange(rows).repeat_interleave(ITEMS)
    nothing = torch.zeros(count)
    return PackedGroups(
        prompts,
        prompt_of,
        items,
        tokens.clamp(min=0),
        tokens >= 0,
        nodes.clamp(min=0),
        nothing,
        nothing.long(),
        nothing,
    )


def totals(policy: TransformersPolicy, prompts: PromptBatch) -> Tensor:
    """[B, items] log-probabilities of whole responses."""
    batch = all_items(policy, prompts)
    logp, _ = policy.logp(batch)
    return torch.where(batch.mask, logp, 0.0).sum(1).view(len(prompts), ITEMS)


def by_hand(policy: TransformersPolicy, prompts: PromptBatch, memory: MemoryHead) -> Tensor:
    """The same from the definition: legal log-probabilities of a policy without a memory, weighed node by node."""
    plain = remembering(None, space="legal")
    trie, legal = policy.trie, all_items(plain, replace(prompts, recalled=None))
    logp, _ = plain.logp(legal)
    above = memory(prompts.recalled)
    found = torch.zeros(len(prompts), ITEMS)
    for prompt in range(len(prompts)):
        weight = torch.ones(ITEMS)
        for item, value in zip(KNOWN[prompt], above[prompt], strict=True):
            if item >= 0:
                weight[item] = value.exp()
        log_step: dict[int, float] = {}  # of every node but the root: what the model and the mean weights say
        mean: dict[int, Tensor] = {}
        through: dict[int, list[int]] = {}
        for item in range(ITEMS):
            row = prompt * ITEMS + item
            nodes = legal.nodes[row][legal.mask[row]].tolist()
            path = [*nodes, int(trie.leaf[0, item])]
            for node in path:
                through.setdefault(node, []).append(item)
            for place, child in enumerate(path[1:]):
                log_step[child] = float(logp[row, place])
        for node, items in through.items():
            mean[node] = weight[items].mean().log()
        for item in range(ITEMS):
            node, total = int(trie.leaf[0, item]), 0.0
            while node != 0:
                above_it = int(trie.parent[node])
                siblings = [child for child in log_step if int(trie.parent[child]) == above_it]
                offered = torch.tensor([log_step[child] + float(mean[child]) for child in siblings])
                total += float(log_step[node] + mean[node] - offered.logsumexp(0))
                node = above_it
            found[prompt, item] = total
    return found


@pytest.mark.parametrize("space", ["raw", "legal"])
@pytest.mark.parametrize("memory", [head(), taught()], ids=["shares", "taught"])
@torch.no_grad()
def test_log_probabilities_are_the_definitions_and_sum_to_one(space: str, memory: MemoryHead) -> None:
    policy = remembering(memory, space=space)
    prompts = prompts_of(policy)
    found = totals(policy, prompts)
    torch.testing.assert_close(found, by_hand(policy, prompts, memory), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.logsumexp(1), torch.zeros(3), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_prompt_of_which_nothing_is_recalled_is_decoded_by_the_model_alone() -> None:
    policy, plain = remembering(head()), remembering(None, space="legal")
    prompts = prompts_of(policy)
    alone = totals(plain, replace(prompts, recalled=None))
    torch.testing.assert_close(totals(policy, prompts)[2], alone[2], atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_what_is_recalled_a_policy_with_a_memory_is_bit_for_bit_one_without() -> None:
    policy, plain = remembering(head()), remembering(None)
    prompts = replace(prompts_of(policy), recalled=None)
    assert torch.equal(totals(policy, prompts), totals(plain, prompts))
    ours, theirs = (beam_search(each, each.trie, prompts, 10) for each in (policy, plain))
    assert torch.equal(ours.items, theirs.items)
    assert torch.equal(ours.logps, theirs.logps)


def rollouts(policy: TransformersPolicy, prompts: PromptBatch) -> Iterator[Responses]:
    yield beam_search(policy, policy.trie, prompts, ITEMS)
    yield sample(policy, policy.trie, prompts, SampleOptions(group_size=30), seed=1)


@pytest.mark.parametrize("space", ["raw", "legal"])
@torch.no_grad()
def test_what_rollouts_say_is_what_the_actor_computes(space: str) -> None:
    policy = remembering(taught(), space=space)
    prompts = prompts_of(policy)
    expected = totals(policy, prompts)
    for responses in rollouts(policy, prompts):
        score = torch.where(responses.exists, responses.score, 0.0)
        own = expected.gather(1, responses.items[..., 0].clamp(min=0))
        torch.testing.assert_close(score, torch.where(responses.exists, own, 0.0), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_strong_memory_puts_what_it_holds_first_in_its_own_order() -> None:
    policy = remembering(head(weight=8, floor=1e-6))
    found = beam_search(policy, policy.trie, prompts_of(policy), 10).items[..., 0]
    assert found[0, :2].tolist() == [3, 17]
    assert set(found[0, :4].tolist()) == {3, 17, 25, 30}
    assert found[1, :2].tolist() == [0, 39]


@torch.no_grad()
def test_samples_follow_the_policys_distribution() -> None:
    policy = remembering(head(weight=1.0))
    prompts = prompts_of(policy).select(torch.tensor([0]))
    drawn = sample(policy, policy.trie, prompts, SampleOptions(group_size=4000), seed=2).items[0, :, 0]
    share = torch.bincount(drawn, minlength=ITEMS) / len(drawn)
    expected = totals(policy, prompts)[0].exp()
    assert float((share - expected).abs().max()) < 0.03


def test_the_gradient_reaches_model_and_memory_and_is_that_of_differences() -> None:
    memory = head(hidden_size=3)
    policy = remembering(memory)
    torch.nn.init.normal_(memory.learned[2].weight, std=0.5)
    policy.train_memory()
    prompts = prompts_of(policy)
    rows = torch.arange(3 * ITEMS) % 7 == 0

    def value() -> Tensor:
        return totals(policy, prompts).flatten()[rows].sum()

    value().backward()
    of_memory = ((memory.learned[0].weight, (1, 2)), (memory.learned[2].bias, (0,)))
    for weight, place in (*of_memory, (policy.head, (9, 4))):
        slope = float(weight.grad[place])
        with torch.no_grad():
            weight[place] += 1e-2
            up = float(value())
            weight[place] -= 2e-2
            down = float(value())
            weight[place] += 1e-2
        assert slope == pytest.approx((up - down) / 2e-2, rel=0.05, abs=0.02)


def test_only_a_memory_that_trains_is_among_the_parameters_and_its_twin_does_not() -> None:
    policy = remembering(head(hidden_size=3))
    names = {name for name, _ in policy.named_parameters()}
    assert not any(name.startswith("memory.") for name in names)
    policy.train_memory()
    more = {name for name, _ in policy.named_parameters()} - names
    assert more == {f"memory.learned.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    twin = policy.frozen_copy()
    assert {name for name, _ in twin.named_parameters()} == names
    with torch.no_grad():
        policy.memory.learned[2].bias += 1
    assert float(twin.memory.learned[2].bias) == 0


def test_what_is_learned_counts_the_weight_times_as_the_share_does() -> None:
    recalled = prompts_of(remembering(None)).recalled
    once, thrice = head(weight=1.0, hidden_size=3), head(weight=3.0, hidden_size=3)
    for memory in (once, thrice):
        torch.nn.init.constant_(memory.learned[2].weight, 0.5)
    torch.testing.assert_close(thrice(recalled), 3 * once(recalled))
    assert not torch.allclose(once(recalled), head(weight=1.0)(recalled))
