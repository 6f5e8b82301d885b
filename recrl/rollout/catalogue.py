"""The target against random items of the catalogue, without a policy (S-DPO's negatives, METHODS B-9).

The first response names the prompt's first target, the others distinct items that are neither a target nor in the
history. No rollout drew them: their rollout log-probabilities are 0.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from recrl.components import Part
from recrl.groups import PromptBatch, RolloutGroups
from recrl.rollout.base import RolloutContext, RolloutOptions
from recrl.rollout.responses import Responses, item_groups


class CatalogueOptions(RolloutOptions):
    group_size: int = Field(4, ge=2)
    """The target and the items against it."""
    slate_size: Literal[1] = 1
    """A response names one item."""


def rollout(prompts: PromptBatch, options: CatalogueOptions, context: RolloutContext) -> RolloutGroups:
    """Target and negatives; a prompt without a target has no responses."""
    trie = context.trie
    items = len(context.codes)
    target = prompts.targets.items[:, :1]
    known = torch.cat([prompts.targets.items, prompts.history], 1)
    others = draw(known, items, options.group_size - 1, context.seed)
    exists = torch.cat([target >= 0, (others >= 0) & (target >= 0)], 1)
    named = torch.cat([target, others], 1).clamp(min=0)
    tokens, nodes = trie.paths(named, trie.root[prompts.start].unsqueeze(1))
    responses = Responses(
        tokens,
        nodes.clamp(min=0),
        torch.zeros_like(tokens, dtype=torch.float32),
        exists,
        torch.where(exists, named, -1).unsqueeze(-1),
    )
    return item_groups(prompts, responses, context.codes)


def draw(known: Tensor, items: int, count: int, seed: int) -> Tensor:
    """[B, count] distinct random items outside [B, K] known ones, -1 where the catalogue has no more.

    A random number for every item would be B x items of them; a few more draws than are wanted do, and where they don't
    the row is drawn in full.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, spare = len(known), count + known.shape[1] + 16
    drawn = torch.randint(items, (rows, spare), generator=generator).to(known.device)
    usable = ~(drawn.unsqueeze(2) == known.unsqueeze(1)).any(-1)
    again = (drawn.unsqueeze(2) == drawn.unsqueeze(1)).tril(-1).any(-1)
    usable &= ~again
    order = (~usable).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
    chosen = torch.where(usable.gather(1, order), drawn.gather(1, order), -1)
    short = (chosen < 0).any(1).nonzero().squeeze(1)
    if len(short):
        chosen[short] = _drawn_in_full(known[short], items, count, generator).to(known.device)
    return chosen


def _drawn_in_full(known: Tensor, items: int, count: int, generator: torch.Generator) -> Tensor:
    """The same by a random order of all items."""
    key = torch.rand(len(known), items, generator=generator).to(known.device)
    row, place = (known >= 0).nonzero(as_tuple=True)
    key[row, known[row, place]] = 2.0
    value, order = key.sort(dim=1)
    width = min(count, items)
    chosen = torch.where(value[:, :width] < 2, order[:, :width], -1)
    return torch.nn.functional.pad(chosen, (0, count - width), value=-1)


CATALOGUE = Part(CatalogueOptions, rollout, source="chenyuxin1999/S-DPO, METHODS B-9")
