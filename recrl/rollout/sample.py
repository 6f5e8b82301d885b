"""Legal sampling: G independent responses a prompt, each token drawn among the legal continuations."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from recrl.backends.policy import Policy
from recrl.components import Part
from recrl.groups import PromptBatch, RolloutGroups
from recrl.rollout.base import RolloutOptions
from recrl.rollout.responses import Responses, item_groups
from recrl.sids.trie import ROOT, Trie


class SampleOptions(RolloutOptions):
    temperature: float = Field(1.0, gt=0)
    """Log-probabilities are divided by it before they are renormalised over the legal continuations."""


def sample(policy: Policy, trie: Trie, prompts: PromptBatch, options: SampleOptions, seed: int) -> Responses:
    """Draw responses; the log-probabilities that come back are the policy's own, at temperature 1.

    The draws come from a CPU generator, so that a seed means the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    width = options.group_size
    state, hidden = policy.prefill(prompts)
    node = torch.full((len(prompts), 1), ROOT, device=policy.device)
    parent = torch.zeros(len(prompts), width, dtype=torch.long, device=policy.device)
    tokens, nodes, logps = [], [], []
    for step in range(trie.depth):
        edge, exists = trie.edges(node, trie.fanout[step])
        logp = policy.candidate_logp(hidden, trie.token[edge], exists)
        if step == 0:  # one hidden state a prompt serves all of its samples
            edge, logp, node = (states.expand(-1, width, *states.shape[2:]) for states in (edge, logp, node))
        finished = trie.count[node] == 0
        draw = -torch.log(-torch.log(torch.rand(logp.shape, generator=generator))).to(logp)  # Gumbel noise
        choice = (logp / options.temperature + draw).argmax(-1, keepdim=True)
        picked = edge.gather(-1, choice).squeeze(-1)
        nodes.append(node)
        tokens.append(torch.where(finished, -1, trie.token[picked]))
        logps.append(torch.where(finished, 0.0, logp.gather(-1, choice).squeeze(-1)))
        node = torch.where(finished, node, picked + 1)
        if step + 1 < trie.depth:
            hidden = policy.extend(state, parent, tokens[-1].clamp(min=0), step)
            parent = torch.arange(width, device=policy.device).expand(len(prompts), -1)
    exists = torch.ones_like(node, dtype=torch.bool)
    return Responses(torch.stack(tokens, -1), torch.stack(nodes, -1), torch.stack(logps, -1), exists, trie.item[node])


def rollout(
    policy: Policy, trie: Trie, prompts: PromptBatch, codes: Tensor, options: SampleOptions, seed: int
) -> RolloutGroups:
    """Samples as a group."""
    return item_groups(prompts, sample(policy, trie, prompts, options, seed), codes)


SAMPLE = Part(SampleOptions, rollout, source="METHODS C-8, COMMON")
