"""Legal beam search as a tree over one prompt cache (SINGER's rollout, METHODS C-3 and C-4).

Score = sum of log-probabilities, no length normalisation. A beam that reached a leaf is finished and keeps its score
while others go on. A step is one forward over all beams; the prompt's keys are computed once and never copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recrl.backends.policy import Policy
from recrl.components import Part
from recrl.groups import PromptBatch, RolloutGroups
from recrl.rollout.base import RolloutOptions
from recrl.rollout.responses import Responses, item_groups
from recrl.sids.trie import ROOT, Trie


@dataclass(frozen=True)
class _Beams:
    """[B, W] beams after some steps."""

    score: Tensor
    node: Tensor
    tokens: Tensor  # [B, W, steps]
    nodes: Tensor  # [B, W, steps] where each token was chosen
    logps: Tensor  # [B, W, steps]

    def is_open(self, trie: Trie) -> Tensor:
        """[B, W] bool: the beam is real and not at a leaf."""
        return (trie.count[self.node] > 0) & (self.score > float("-inf"))


def beam_search(policy: Policy, trie: Trie, prompts: PromptBatch, width: int) -> Responses:
    """The ``width`` best legal responses to every prompt, best first; fewer where fewer are legal.

    Only beams that are still open are computed. Ties go to the lower open beam, then to the lower token, then to beams
    that had finished.
    """
    state, hidden = policy.prefill(prompts)
    start = hidden.new_zeros(len(prompts), 1, dtype=torch.float32)
    node = torch.full_like(start, ROOT, dtype=torch.long)
    empty = node.new_zeros(len(prompts), 1, 0)
    beams = _Beams(start, node, empty, empty, start.new_zeros(len(prompts), 1, 0))
    opened = torch.zeros_like(node)  # [B, U] the beams that ``hidden`` belongs to
    for step in range(trie.depth):
        beams, slot = _advance(trie, beams, opened, policy, hidden, trie.fanout[step], width)
        unfinished = beams.is_open(trie)
        count = int(unfinished.sum(1).max())
        if count == 0:
            break
        opened = (~unfinished).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
        token = beams.tokens[:, :, -1].clamp(min=0)
        hidden = policy.extend(state, slot.gather(1, opened), token.gather(1, opened), step)
    exists = (beams.score > float("-inf")) & (trie.item[beams.node] >= 0)
    return Responses(beams.tokens, beams.nodes, beams.logps, exists, torch.where(exists, trie.item[beams.node], -1))


def _advance(
    trie: Trie, beams: _Beams, opened: Tensor, policy: Policy, hidden: Tensor, fanout: int, width: int
) -> tuple[_Beams, Tensor]:
    """One level down the trie; returns the new beams, and the place in ``opened`` that each of them came from."""
    node = beams.node.gather(1, opened)
    open_score = torch.where(beams.is_open(trie), beams.score, float("-inf")).gather(1, opened)
    edge, exists = trie.edges(node, fanout)  # [B, U, C]
    logp = policy.candidate_logp(hidden, trie.token[edge], exists)
    finished = torch.where(trie.count[beams.node] == 0, beams.score, float("-inf"))  # candidates that stay as they are
    total = torch.cat([(open_score.unsqueeze(-1) + logp).flatten(1), finished], 1)
    score, best = _stable_top(total, min(width, total.shape[1]))
    moves = opened.shape[1] * fanout
    stays = best >= moves
    taken = best.clamp(max=moves - 1)
    slot = taken // fanout
    parent = torch.where(stays, best - moves, opened.gather(1, slot))
    picked = edge.flatten(1).gather(1, taken)
    previous = beams.node.gather(1, parent)

    def path(states: Tensor, new: Tensor) -> Tensor:
        kept = states.gather(1, parent.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        return torch.cat([kept, new.unsqueeze(-1)], -1)

    after = _Beams(
        score,
        torch.where(stays, previous, picked + 1),
        path(beams.tokens, torch.where(stays, -1, trie.token[picked])),
        path(beams.nodes, previous),
        path(beams.logps, torch.where(stays, 0.0, logp.flatten(1).gather(1, taken))),
    )
    return after, slot


def _stable_top(total: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The ``width`` largest of [B, C], best first; of equal ones the lower place first, on every device."""
    score, place = total.topk(width, dim=1)
    order = place.argsort(dim=1)
    score, place = score.gather(1, order), place.gather(1, order)
    order = score.argsort(dim=1, descending=True, stable=True)
    return score.gather(1, order), place.gather(1, order)


def rollout(
    policy: Policy,
    trie: Trie,
    prompts: PromptBatch,
    codes: Tensor,
    options: RolloutOptions,
    seed: int,  # noqa: ARG001
) -> RolloutGroups:
    """Beams as a group; beams are not samples of the policy, GRPO takes them as if they were (METHODS C-4)."""
    responses = beam_search(policy, trie, prompts, options.group_size)
    return item_groups(prompts, responses, codes)


BEAM = Part(RolloutOptions, rollout, source="SINGER, METHODS C-4")
