"""Legal beam search as a tree over one prompt cache (SINGER's rollout, papers.md C-3 and C-4).

The score is the sum of log-probabilities, not normalised by length. A beam that reached a leaf is finished and keeps
its score while others go on. A step is one forward over all beams; the prompt's keys are computed once, never copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recrl.backends.policy import Decoding
from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import RolloutGroups
from recrl.memory.prior import NodePrior
from recrl.parts import Part
from recrl.rollout.base import RolloutContext, RolloutOptions
from recrl.rollout.responses import Responses, Walk, item_groups, slates
from recrl.sids.trie import AllowedNodes, Trie


@dataclass(frozen=True)
class _Beams:
    """[B, W] beams after some steps."""

    score: Tensor
    walk: Walk
    tokens: Tensor  # [B, W, steps]
    nodes: Tensor  # [B, W, steps] where each token was chosen
    logps: Tensor  # [B, W, steps]
    items: Tensor  # [B, W, 1 + steps] items that ended there, -1 elsewhere

    def is_open(self, trie: Trie) -> Tensor:
        """[B, W] bool: the beam is real and not finished."""
        return self.walk.is_open(trie) & (self.score > float("-inf"))


def beam_search(policy: Decoding, trie: Trie, prompts: PromptBatch, width: int, slate_size: int = 1) -> Responses:
    """The ``width`` best legal responses to every prompt, best first; fewer where fewer are legal.

    Only beams that are still open are computed. Ties go to the lower open beam, then to the lower token, then to beams
    that had finished.
    """
    state, hidden = policy.prefill(prompts)
    allowed, prior = prompts.allowed(trie), policy.prior(prompts)
    walk = Walk.begin(prompts.start)
    empty = walk.node.new_zeros(len(prompts), 1, 0)
    score = hidden.new_zeros(len(prompts), 1, dtype=torch.float32)
    # A prompt that gives the whole answer starts at its leaf: that item is named already.
    items = trie.item[walk.node].unsqueeze(-1)
    beams = _Beams(score, walk, empty, empty, score.new_zeros(len(prompts), 1, 0), items)
    unfinished = beams.is_open(trie)
    opened = torch.zeros_like(walk.node)  # [B, U] the beams that ``hidden`` belongs to
    for step in range(trie.depth * slate_size):
        fanout = trie.widest(step, slate_size)
        beams, slot = _advance(
            trie, allowed, prior, beams, unfinished, opened, policy, hidden, fanout, width, slate_size
        )
        unfinished = beams.is_open(trie)
        count = int(unfinished.sum(1).max())
        if count == 0:
            break
        opened = (~unfinished).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
        token = beams.tokens[:, :, -1].clamp(min=0)
        hidden = policy.extend(state, slot.gather(1, opened), token.gather(1, opened), step)
    exists = beams.score > float("-inf")
    named = torch.where(exists.unsqueeze(-1), slates(beams.items, slate_size), -1)
    return Responses(beams.tokens, beams.nodes, beams.logps, exists, named)


def _advance(
    trie: Trie,
    allowed: AllowedNodes | None,
    prior: NodePrior | None,
    beams: _Beams,
    unfinished: Tensor,
    opened: Tensor,
    policy: Decoding,
    hidden: Tensor,
    fanout: int,
    width: int,
    slate_size: int,
) -> tuple[_Beams, Tensor]:
    """One level down the trie; returns the new beams, and the place in ``opened`` that each of them came from."""
    node = beams.walk.node.gather(1, opened)
    open_score = torch.where(unfinished, beams.score, float("-inf")).gather(1, opened)
    edge, exists = trie.edges(node, fanout, allowed)  # [B, U, C]
    bias = None if prior is None else prior.steps(node, trie.child(edge))
    logp = policy.candidate_logp(hidden, trie.tokens(edge), exists, bias)
    finished = torch.where(unfinished, float("-inf"), beams.score)  # candidates that stay as they are
    total = torch.cat([(open_score.unsqueeze(-1) + logp).flatten(1), finished], 1)
    score, best = _stable_top(total, min(width, total.shape[1]))
    moves = opened.shape[1] * fanout
    stays = best >= moves
    taken = best.clamp(max=moves - 1)
    slot = taken // fanout
    parent = torch.where(stays, best - moves, opened.gather(1, slot))
    picked = edge.flatten(1).gather(1, taken)
    previous = beams.walk.gather(parent)
    walk, item = previous.step(trie, picked, ~stays, slate_size)

    def path(states: Tensor, new: Tensor) -> Tensor:
        kept = states.gather(1, parent.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        return torch.cat([kept, new.unsqueeze(-1)], -1)

    after = _Beams(
        score,
        walk,
        path(beams.tokens, torch.where(stays, -1, trie.token[picked])),
        path(beams.nodes, previous.node),
        path(beams.logps, torch.where(stays, 0.0, logp.flatten(1).gather(1, taken))),
        path(beams.items, item),
    )
    return after, slot


def _stable_top(total: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The ``width`` largest of [B, C], best first; of equal ones the lower place first, on every device."""
    beyond = min(width + 1, total.shape[1])
    score, place = total.topk(beyond, dim=1)
    if beyond > width:
        next_best = score[:, width]
        score, place = score[:, :width], place[:, :width]
        tied = (score[:, -1] == next_best) & (next_best > float("-inf"))
        if total.device.type != "cpu" or bool(tied.any()):  # an accelerator would have to wait for the answer
            place = _lowest_tied(total, score, place)
    place = place.sort(dim=1).values
    score, order = total.gather(1, place).sort(dim=1, descending=True, stable=True)
    return score, place.gather(1, order)


def _lowest_tied(total: Tensor, score: Tensor, place: Tensor) -> Tensor:
    """[B, W] places of the W largest of [B, C], of those that equal the last one the lowest; ``topk`` takes any."""
    width, count = score.shape[1], total.shape[1]
    last = score[:, -1:]
    places = torch.arange(count, device=total.device)
    lowest = torch.where(total == last, places, count - 1).topk(width, dim=1, largest=False).values
    above = score > last  # these stand first, as many as they are
    rank = torch.arange(width, device=total.device) - above.sum(1, keepdim=True)
    return torch.where(above, place, lowest.gather(1, rank.clamp(min=0)))


class BeamOptions(RolloutOptions):
    pad: Literal["none", "repeat_first"] = "none"
    """What stands in a group's places where fewer responses are legal than it has: nothing, or the best one again, as
    OpenOneRec has it, which narrows the group's standard deviation."""


def rollout(prompts: PromptBatch, options: BeamOptions, context: RolloutContext) -> RolloutGroups:
    """Beams as a group; beams are not samples of the policy, GRPO takes them as if they were (papers.md C-4)."""
    responses = beam_search(context.policy, context.trie, prompts, options.group_size, options.slate_size)
    groups = item_groups(prompts, responses, context.codes)
    return _repeated(groups, options.group_size) if options.pad == "repeat_first" else groups


def _repeated(groups: RolloutGroups, size: int) -> RolloutGroups:
    """Groups of ``size``, the first response in every place that holds none."""
    count = groups.exists.sum(1, keepdim=True)  # a beam's responses stand first
    place = torch.arange(size, device=count.device)
    return groups.responses(torch.where(place < count, place, 0))


BEAM = Part(BeamOptions, rollout, source="SINGER, papers.md C-4")
