"""Responses to the prompts of a step, and what a signal makes of their rewards.

Letters: B prompts, G responses of a prompt (its group), R tokens of a response, I items of a slate (1 where a response
names one item), L SID levels. Everything is padded on the right; item indices and codes are padded with -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from recrl.groups.prompts import PromptBatch


@dataclass(frozen=True)
class RolloutGroups:
    """G legal responses to every prompt, best first where the rollout ranks them.

    Attributes:
        tokens: [B, G, R] token ids.
        mask: [B, G, R] bool, True where the policy chose the token freely (not given, not padding).
        nodes: [B, G, R] trie node that each token was chosen at.
        logp: [B, G, R] natural log-probability of each token under the rollout.
        items: [B, G, I] items that a response names, -1 where there is none.
        codes: [B, G, I, L] their SID codes.
        exists: [B, G] bool; a prompt with fewer legal responses than G has fewer.
        hard: [B] bool: no response that was made without help names a target.
    """

    prompts: PromptBatch
    tokens: Tensor
    mask: Tensor
    nodes: Tensor
    logp: Tensor
    items: Tensor
    codes: Tensor
    exists: Tensor
    hard: Tensor

    def select(self, rows: Tensor) -> RolloutGroups:
        """The groups of some prompts."""
        return RolloutGroups(
            self.prompts.select(rows),
            self.tokens[rows],
            self.mask[rows],
            self.nodes[rows],
            self.logp[rows],
            self.items[rows],
            self.codes[rows],
            self.exists[rows],
            self.hard[rows],
        )

    def responses(self, place: Tensor) -> RolloutGroups:
        """Of every group the responses at [B, G'] places, in that order; ``hard`` stays as it is."""
        row = torch.arange(len(place), device=place.device).unsqueeze(1)
        return replace(
            self,
            tokens=self.tokens[row, place],
            mask=self.mask[row, place],
            nodes=self.nodes[row, place],
            logp=self.logp[row, place],
            items=self.items[row, place],
            codes=self.codes[row, place],
            exists=self.exists[row, place],
        )

    @property
    def item_hits(self) -> Tensor:
        """[B, G, I] bool: the item is one of the prompt's targets."""
        named = (self.items.unsqueeze(-1) == self.prompts.targets.items[:, None, None]).any(-1)
        return named & self.exists.unsqueeze(-1) & (self.items >= 0)

    @property
    def hits(self) -> Tensor:
        """[B, G] bool: the response names one of the prompt's targets."""
        return self.item_hits.any(-1)

    @property
    def names(self) -> Tensor:
        """[B, G] bool: the response names an item at all."""
        return self.exists & (self.items >= 0).any(-1)


@dataclass(frozen=True)
class Signal:
    """What a signal makes of rewards.

    Attributes:
        groups: the responses, with repaired ones in place of those that they replace.
        advantage: [B, G] float32.
        active: [B, G] bool; only these rows go on.
        repaired: [B] bool.
        state: what the signal wants to see again at the next step; it goes into checkpoints.
    """

    groups: RolloutGroups
    advantage: Tensor
    active: Tensor
    repaired: Tensor
    state: Mapping[str, float] = field(default_factory=dict)


def slate_entropy(items: Tensor, category: Tensor) -> Tensor:
    """Entropy of the categories of a slate's valid items, in nats (SAGE, papers.md A-4).

    An item that stands twice counts twice: that is homogeneity. NaN where no item is valid: a failure of format says
    nothing of diversity.

    Args:
        items: [..., I] item indices, -1 where there is none.
        category: [items] category number of every item.
    """
    valid = items >= 0
    kind = torch.where(valid, category[items.clamp(min=0)], -1)
    same = (kind.unsqueeze(-1) == kind.unsqueeze(-2)) & valid.unsqueeze(-1) & valid.unsqueeze(-2)
    share = same.sum(-1) / valid.sum(-1, keepdim=True)  # of an item's category; 0 / 0 is NaN where no item is valid
    log_share = torch.where(valid, share, 1.0).log()
    # -sum over categories of p ln p = -mean over items of ln p of the item's own category.
    return -log_share.sum(-1) / valid.sum(-1)
