"""Responses as a rollout leaves them, and their place in groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recrl.groups import PromptBatch, RolloutGroups


@dataclass(frozen=True)
class Responses:
    """W legal responses to each of B prompts, of at most R tokens.

    Attributes:
        tokens: [B, W, R], -1 behind the end.
        nodes: [B, W, R] trie nodes that they were chosen at.
        logps: [B, W, R] log-probabilities, 0 behind the end.
        exists: [B, W] bool.
        items: [B, W] the item that a response names, -1 where none exists.
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


def item_groups(prompts: PromptBatch, responses: Responses, codes: Tensor) -> RolloutGroups:
    """Responses that name items, with the items' SID codes ([items, L])."""
    mask = (responses.tokens >= 0) & responses.exists.unsqueeze(-1)
    items = responses.items
    named = torch.where((items >= 0).unsqueeze(-1), codes[items.clamp(min=0)], -1)
    return RolloutGroups(
        prompts=prompts,
        tokens=responses.tokens.clamp(min=0),
        mask=mask,
        nodes=responses.nodes,
        logp=torch.where(mask, responses.logps, 0.0),
        items=items,
        codes=named,
        exists=responses.exists,
    )
