"""Legal sampling: G independent responses a prompt, each token drawn among the legal continuations."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from recrl.backends.policy import Decoding
from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rollout.base import RolloutContext, RolloutOptions, generators
from recrl.rollout.responses import Responses, Walk, item_groups, slates
from recrl.sids.trie import Trie


class SampleOptions(RolloutOptions):
    temperature: float = Field(1.0, gt=0)
    """Log-probabilities are divided by it before they are renormalised over the legal continuations."""
    top_k: int = Field(0, ge=0)
    """Draw among the most likely legal continuations alone; 0 is among all."""


def sample(
    policy: Decoding, trie: Trie, prompts: PromptBatch, options: SampleOptions, seed: int, first: int = 0
) -> Responses:
    """Draw responses; the log-probabilities that come back are the policy's own, at temperature 1.

    The draws come from CPU generators, one a prompt, so that a seed means the same on every device and
    beside any other prompts.

    Args:
        first: place of the first prompt among all of the step.
    """
    sources = generators(seed, first, len(prompts))
    width, slate_size = options.group_size, options.slate_size
    state, hidden = policy.prefill(prompts)
    allowed, prior = prompts.allowed(trie), policy.prior(prompts)
    walk = Walk.begin(prompts.start)
    parent = torch.zeros(len(prompts), width, dtype=torch.long, device=policy.device)
    tokens, nodes, logps = [], [], []
    # A prompt that gives the whole answer starts at its leaf: that item is named already.
    items = [trie.item[walk.node].expand(-1, width)]
    for step in range(trie.depth * slate_size):
        edge, exists = trie.edges(walk.node, trie.widest(step, slate_size), allowed)
        bias = None if prior is None else prior.steps(walk.node, trie.child(edge))
        logp = policy.candidate_logp(hidden, trie.tokens(edge), exists, bias)
        if step == 0:  # one hidden state a prompt serves all of its samples
            edge, logp = (states.expand(-1, width, *states.shape[2:]) for states in (edge, logp))
            walk = walk.gather(parent)
        alive = walk.is_open(trie)
        choice = _drawn(logp, options, sources)
        picked = edge.gather(-1, choice).squeeze(-1)
        nodes.append(walk.node)
        tokens.append(torch.where(alive, trie.token[picked], -1))
        logps.append(torch.where(alive, logp.gather(-1, choice).squeeze(-1), 0.0))
        walk, item = walk.step(trie, picked, alive, slate_size)
        items.append(item)
        if not bool(walk.is_open(trie).any()):
            break
        hidden = policy.extend(state, parent, tokens[-1].clamp(min=0), step)
        parent = torch.arange(width, device=policy.device).expand(len(prompts), -1)
    exists = torch.ones_like(walk.node, dtype=torch.bool)
    named = slates(torch.stack(items, -1), slate_size)
    return Responses(torch.stack(tokens, -1), torch.stack(nodes, -1), torch.stack(logps, -1), exists, named)


def _drawn(logp: Tensor, options: SampleOptions, sources: list[torch.Generator]) -> Tensor:
    """[B, W, C] log-probabilities -> [B, W, 1] places, drawn by their largest sum with Gumbel noise."""
    drawn = torch.stack([torch.rand(logp.shape[1:], generator=source) for source in sources])
    noise = -torch.log(-torch.log(drawn)).to(logp)
    if 0 < options.top_k < logp.shape[-1]:
        logp = logp.masked_fill(logp < logp.topk(options.top_k).values[..., -1:], float("-inf"))
    return (logp / options.temperature + noise).argmax(-1, keepdim=True)


def rollout(prompts: PromptBatch, options: SampleOptions, context: RolloutContext) -> RolloutGroups:
    """Samples as a group."""
    responses = sample(context.policy, context.trie, prompts, options, context.seed, context.first)
    return item_groups(prompts, responses, context.codes)


SAMPLE = Part(SampleOptions, rollout, source="papers.md C-8, COMMON")
