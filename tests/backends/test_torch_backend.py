"""The shared-prefix policy against plain, unpacked rows of the same model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer
from worlds import tiny_codes, tiny_policy, tiny_prompts

from recrl.backends.torch_backend import TransformersPolicy
from recrl.groups.packed import PackedGroups, pack_active
from recrl.groups.rollout import Signal
from recrl.rollout.base import RolloutContext
from recrl.rollout.beam import BeamOptions, rollout


def packed(policy: TransformersPolicy, active: Tensor | None = None) -> PackedGroups:
    prompts = tiny_prompts(policy, [5, 9, 2, 7])
    groups = rollout(prompts, BeamOptions(group_size=6), RolloutContext(policy, policy.trie, tiny_codes(), 0))
    active = groups.exists if active is None else active
    advantage = torch.linspace(-1, 1, active.numel()).view(active.shape)
    return pack_active(Signal(groups, advantage, active, torch.zeros(4, dtype=torch.bool)), policy.ops)


def unpacked_logp(policy: TransformersPolicy, batch: PackedGroups, space: str) -> Tensor:
    """One row a response, through the model's stock attention and without any layout of ours."""
    model = copy.deepcopy(policy.model)
    model.set_attn_implementation("eager")
    policy.unpacked = model  # type: ignore[attr-defined]  # its gradients are read afterwards
    rows = []
    for row in range(len(batch)):
        prompt = batch.prompt_of[row]
        head = batch.prompts.ids[prompt, : batch.prompts.length[prompt]]
        response = batch.tokens[row][batch.mask[row]]
        logits = model(torch.cat([head, response])[None]).logits[0, len(head) - 1 : -1]
        if space == "legal":
            edge, exists = policy.trie.edges(batch.nodes[row][batch.mask[row]], max(policy.trie.fanout))
            allowed = torch.zeros_like(logits, dtype=torch.bool)
            allowed.scatter_(1, policy.trie.token[edge], exists)
            allowed.scatter_(1, response[:, None], True)
            logits = logits.masked_fill(~allowed, float("-inf"))
        value = logits.log_softmax(-1).gather(1, response[:, None]).squeeze(1)
        rows.append(torch.nn.functional.pad(value, (0, batch.mask.shape[1] - len(value))))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("space", ["raw", "legal"])
def test_values_and_gradients_equal_those_of_unpacked_rows(kind: str, space: str) -> None:
    policy = tiny_policy(kind, space=space)
    active = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    active[2] = False  # a prompt without an active row is gone
    batch = packed(policy, active)
    logp, entropy = policy.logp(batch)
    expected = unpacked_logp(policy, batch, space)
    assert len(batch.prompts) == 3
    torch.testing.assert_close(logp, expected, atol=1e-5, rtol=1e-5)
    assert (entropy[batch.mask] >= 0).all()
    weight = torch.randn(logp.shape, generator=torch.Generator().manual_seed(2))
    (logp * weight).sum().backward()
    (expected * weight).sum().backward()
    theirs = dict(policy.unpacked.named_parameters())  # type: ignore[attr-defined]
    for name, parameter in policy.model.named_parameters():
        scale = theirs[name].grad.abs().max()
        torch.testing.assert_close(parameter.grad / scale, theirs[name].grad / scale, atol=2e-5, rtol=1e-4)


def test_a_model_without_fused_layers_gives_the_same() -> None:
    results = []
    for fused in (True, False):
        policy = tiny_policy()
        if not fused:
            layer = policy.model.model.layers[-1]
            layer.__class__ = Qwen3DecoderLayer
        logp, _ = policy.logp(packed(policy))
        logp.square().sum().backward()
        results.append(torch.cat([logp.flatten().detach(), *(p.grad.flatten() for p in policy.parameters())]))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)


def test_any_cut_into_micro_batches_gives_the_same_gradient() -> None:
    gradients = []
    for budget in (10_000, 1):
        policy = tiny_policy()
        batch = packed(policy)
        parts = batch.micro_batches(budget)
        assert len(parts) == (1 if budget == 10_000 else 4)
        for part in parts:
            logp, _ = policy.logp(part)
            (logp.sum(1) * part.advantage).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


def test_rollout_log_probabilities_are_those_of_the_actor() -> None:
    for space in ("raw", "legal"):
        policy = tiny_policy(space=space)
        prompts = tiny_prompts(policy, [3, 8])
        groups = rollout(prompts, BeamOptions(group_size=5), RolloutContext(policy, policy.trie, tiny_codes(), 0))
        signal = Signal(groups, torch.zeros(2, 5), groups.exists, torch.zeros(2, dtype=torch.bool))
        batch = pack_active(signal, policy.ops)
        logp, _ = policy.logp(batch)
        torch.testing.assert_close(logp, groups.logp[groups.exists], atol=1e-5, rtol=1e-5)


def test_effective_tokens_count_every_prompt_once() -> None:
    policy = tiny_policy()
    active = torch.zeros(4, 6, dtype=torch.bool)
    active[1, :2] = True
    batch = packed(policy, active)
    assert batch.effective_tokens == 9 + int((batch.mask.sum(1) - 1).sum())  # nothing is predicted from a last token
