"""What a policy computes, asked of any engine in the same words and given back as whole tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from worlds import tiny_codes, tiny_index, tiny_prompts

from recrl.backends.decoder_policy import DecoderPolicy
from recrl.groups.packed import PackedGroups, pack_active
from recrl.groups.rollout import RolloutGroups, Signal
from recrl.rollout.base import RolloutContext
from recrl.rollout.beam import BeamOptions
from recrl.rollout.beam import rollout as beam_rollout
from recrl.rollout.sample import SampleOptions
from recrl.rollout.sample import rollout as sample_rollout
from recrl.sids.tokens import sid_token_ids
from recrl.sids.trie import Trie, build_trie

LENGTHS = [5, 9, 2, 7]
STEPS = 10


def tiny_trie(tokenizer: PreTrainedTokenizerBase) -> Trie:
    return build_trie(sid_token_ids(tokenizer, tiny_index()))


def groups_of(policy: DecoderPolicy, *, sampled: bool = False) -> RolloutGroups:
    context = RolloutContext(policy, policy.trie, tiny_codes(), 0)
    prompts = tiny_prompts(policy, LENGTHS)
    with torch.no_grad():
        if sampled:
            return sample_rollout(prompts, SampleOptions(group_size=6), context)
        return beam_rollout(prompts, BeamOptions(group_size=6), context)


def packed(policy: DecoderPolicy) -> PackedGroups:
    groups = groups_of(policy)
    active = groups.exists.clone()
    active[1, ::2] = False
    advantage = torch.linspace(-1, 1, active.numel()).view(active.shape)
    return pack_active(Signal(groups, advantage, active, torch.zeros(len(active), dtype=torch.bool)), policy.ops)


def measure(
    policy: DecoderPolicy, copy: int = 0, copies: int = 1, add: Callable[[Tensor], object] = id
) -> dict[str, Tensor]:
    """Rollouts, log-probabilities, a gradient, ten steps.

    Args:
        copy, copies: this copy of the model takes every ``copies``-th prompt of an update.
        add: adds a tensor up over the copies, in place.
    """
    found = {}
    for name, sampled in (("beam", False), ("sample", True)):
        groups = groups_of(policy, sampled=sampled)
        found |= {f"{name}.items": groups.items, f"{name}.logp": groups.logp, f"{name}.exists": groups.exists}
    batch = packed(policy)
    found |= _log_probabilities(policy, batch)
    mine = batch.select(torch.arange(copy, len(batch.prompts), copies))
    _backward(policy, mine, add)
    found["gradient_norm"] = policy.gradient_norm()
    gradients = {name: parameter.grad for name, parameter in policy.named_parameters()}
    found |= {f"gradient.{name}": tensor.clone() for name, tensor in policy.whole(gradients)}
    return found | _train(policy, mine, add)


def _log_probabilities(policy: DecoderPolicy, batch: PackedGroups) -> dict[str, Tensor]:
    with torch.no_grad():
        logp, entropy = policy.logp(batch)
        ids = torch.cat([row[:length] for row, length in zip(batch.prompts.ids, batch.prompts.length, strict=True)])
        hidden = policy.causal_hidden(ids, batch.prompts.length)
        text, spread = policy.token_logp(hidden[:-1], ids[1:], torch.full_like(ids[1:], -1))
        candidates = ids[:6].view(1, 2, 3)
        logits = policy.candidate_logits(hidden[:2].unsqueeze(0), candidates)
    return {"logp": logp, "entropy": entropy, "text": text, "spread": spread, "hidden": hidden, "logits": logits}


def _backward(policy: DecoderPolicy, batch: PackedGroups, add: Callable[[Tensor], object]) -> Tensor:
    """Through micro-batches of a prompt each, so that gradients gather."""
    loss = torch.zeros(())
    for part in batch.micro_batches(1):
        logp, _ = policy.logp(part)
        total = -(logp.sum(1) * part.advantage).sum() / 10
        total.backward()
        loss += total.detach()
    policy.finish_gradients()
    for parameter in policy.parameters():
        add(parameter.grad)
    add(loss)
    return loss


def _train(policy: DecoderPolicy, batch: PackedGroups, add: Callable[[Tensor], object]) -> dict[str, Tensor]:
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=0.1)
    optimizer.zero_grad()
    losses, norms = [], []
    for _ in range(STEPS):
        losses.append(_backward(policy, replace(batch), add))
        norms.append(policy.gradient_norm())
        for parameter in policy.parameters():
            parameter.grad.mul_((0.5 / norms[-1]).clamp(max=1))
        optimizer.step()
        optimizer.zero_grad()
    found = {"losses": torch.stack(losses), "norms": torch.stack(norms)}
    named = dict(policy.named_parameters())
    found |= {f"weight.{name}": tensor.clone() for name, tensor in policy.whole(named)}
    for state in ("exp_avg", "exp_avg_sq"):
        moments = {name: optimizer.state[parameter][state] for name, parameter in named.items()}
        found |= {f"{state}.{name}": tensor.clone() for name, tensor in policy.whole(moments)}
    return found
