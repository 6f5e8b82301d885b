"""Responses as a rollout leaves them, and their place in groups."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import RolloutGroups
from recrl.sids.trie import Trie


@dataclass(frozen=True)
class Responses:
    """W legal responses to each of B prompts, of at most R tokens.

    Attributes:
        tokens: [B, W, R], -1 after the end.
        nodes: [B, W, R] trie nodes that they were chosen at.
        logps: [B, W, R] log-probabilities, 0 after the end.
        exists: [B, W] bool.
        items: [B, W, I] the items that a response names, -1 where none exists.
    """

    tokens: Tensor
    nodes: Tensor
    logps: Tensor
    exists: Tensor
    items: Tensor

    @property
    def score(self) -> Tensor:
        """[B, W] natural log-probability of the whole response."""
        return self.logps.sum(-1)


@dataclass(frozen=True)
class Walk:
    """Where responses stand on their way through the trie, slate item by slate item.

    Attributes:
        node: [B, W] the node that the next token is chosen at; a leaf where the response is finished.
        named: [B, W] items that are named so far.
    """

    node: Tensor
    named: Tensor

    @classmethod
    def begin(cls, start: Tensor) -> Walk:
        """[B] start nodes of one response a prompt."""
        node = start.unsqueeze(1)
        return cls(node, torch.zeros_like(node))

    def is_open(self, trie: Trie) -> Tensor:
        """[B, W] bool: a token is still to come."""
        return trie.count[self.node] > 0

    def gather(self, parent: Tensor) -> Walk:
        """[B, W'] responses that go on from those at ``parent``."""
        return Walk(self.node.gather(1, parent), self.named.gather(1, parent))

    def step(self, trie: Trie, edge: Tensor, moves: Tensor, slate_size: int) -> tuple[Walk, Tensor]:
        """Down ``edge`` where ``moves``; behind an item that is not the slate's last, back to the root.

        Returns:
            The new places, and [B, W] items that ended with this step, -1 elsewhere.
        """
        node = torch.where(moves, trie.child(edge), self.node)
        item = torch.where(moves, trie.item[node], -1)
        named = self.named + (item >= 0)
        again = (item >= 0) & (named < slate_size)
        return Walk(torch.where(again, trie.root[node], node), named), item


def slates(items: Tensor, slate_size: int) -> Tensor:
    """[B, W, steps] items where they ended, -1 elsewhere -> [B, W, I]."""
    order = (items < 0).to(torch.uint8).argsort(dim=-1, stable=True)
    ordered = items.gather(-1, order)[..., :slate_size]
    return F.pad(ordered, (0, slate_size - ordered.shape[-1]), value=-1)


def item_groups(prompts: PromptBatch, responses: Responses, codes: Tensor) -> RolloutGroups:
    """Responses that name items, with the items' SID codes ([items, L])."""
    mask = (responses.tokens >= 0) & responses.exists.unsqueeze(-1)
    items = responses.items
    named = torch.where((items >= 0).unsqueeze(-1), codes[items.clamp(min=0)], -1)
    groups = RolloutGroups(
        prompts=prompts,
        tokens=responses.tokens.clamp(min=0),
        mask=mask,
        nodes=responses.nodes,
        logp=torch.where(mask, responses.logps, 0.0),
        items=items,
        codes=named,
        exists=responses.exists,
        hard=torch.zeros_like(responses.exists[:, 0]),
    )
    return replace(groups, hard=~groups.hits.any(1))
