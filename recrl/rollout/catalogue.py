"""The target against random items of the catalogue, without a policy (chenyuxin1999/S-DPO; papers.md B-9).

The first response names the prompt's first target, the others distinct items that are neither a target nor in the
history. Where a prompt shows candidates, all are candidates, and there are none where the target is not one of them.
Items with equal token sequences are merged into the lowest of them, so that no negative reads like the target. No
rollout drew them: their rollout log-probabilities are 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rollout.base import RolloutContext, SingleItemOptions, generators
from recrl.rollout.responses import Responses, item_groups


class CatalogueOptions(SingleItemOptions):
    group_size: int = Field(4, ge=2)
    """The target and the items against it."""


def rollout(prompts: PromptBatch, options: CatalogueOptions, context: RolloutContext) -> RolloutGroups:
    """Target and negatives; a prompt without a target that may be named has no responses."""
    trie = context.trie
    root = trie.root[prompts.start].unsqueeze(1)
    lowest = trie.item[trie.leaf]  # [roots, items] of those that are spelled alike
    target = prompts.targets.items[:, :1]
    known = torch.cat([prompts.targets.items, prompts.history], 1)
    known = torch.where(known >= 0, lowest[root, known.clamp(min=0)], -1)
    unlike = lowest == torch.arange(lowest.shape[1], device=lowest.device)
    allowed, sources = prompts.eligible(lowest.shape[1]), generators(context.seed, context.first, len(prompts))
    if allowed is None:
        others = draw(known, unlike, root, options.group_size - 1, sources)
    else:
        others = _drawn_in_full(known, unlike[root[:, 0]] & allowed, options.group_size - 1, sources)
    exists = torch.cat([target, others], 1) >= 0
    exists &= prompts.answerable.unsqueeze(1)
    named = torch.cat([target, others], 1).clamp(min=0)
    tokens, nodes = trie.paths(named, root)
    responses = Responses(
        tokens,
        nodes.clamp(min=0),
        torch.zeros_like(tokens, dtype=torch.float32),
        exists,
        torch.where(exists, named, -1).unsqueeze(-1),
    )
    return item_groups(prompts, responses, context.codes)


def draw(known: Tensor, eligible: Tensor, root: Tensor, count: int, sources: list[torch.Generator]) -> Tensor:
    """Distinct random items, all as likely.

    A random number for every item would be B x items of them; a few more draws than are wanted do, and where they don't
    the row is drawn in full.

    Args:
        known: [B, K] items that are out of the question, -1 for none.
        eligible: [roots, items] bool: the item may be drawn below this root.
        root: [B, 1] root of every prompt.
        sources: of random numbers, one a prompt.

    Returns:
        [B, count] items, -1 where the catalogue has no more.
    """
    spare = count + known.shape[1] + 16
    items = eligible.shape[1]
    drawn = torch.stack([torch.randint(items, (spare,), generator=source) for source in sources]).to(known.device)
    taken = (drawn.unsqueeze(2) == known.unsqueeze(1)).any(-1)
    again = (drawn.unsqueeze(2) == drawn.unsqueeze(1)).tril(-1).any(-1)
    usable = eligible[root, drawn] & ~taken & ~again
    order = (~usable).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
    chosen = torch.where(usable.gather(1, order), drawn.gather(1, order), -1)
    short = (chosen < 0).any(1).nonzero().squeeze(1)
    if len(short):
        own = [sources[row] for row in short.tolist()]
        chosen[short] = _drawn_in_full(known[short], eligible[root[short, 0]], count, own)
    return chosen


def _drawn_in_full(known: Tensor, eligible: Tensor, count: int, sources: list[torch.Generator]) -> Tensor:
    """The same by a random order of all items; ``eligible`` is [B, items]."""
    drawn = torch.stack([torch.rand(eligible.shape[1:], generator=source) for source in sources])
    key = drawn.to(known.device).masked_fill(~eligible, 2.0)
    row, place = (known >= 0).nonzero(as_tuple=True)
    key[row, known[row, place]] = 2.0
    value, order = key.sort(dim=1)
    chosen = torch.where(value < 2, order, -1)[:, :count]
    return F.pad(chosen, (0, count - chosen.shape[1]), value=-1)


CATALOGUE = Part(CatalogueOptions, rollout, source="chenyuxin1999/S-DPO, papers.md B-9", needs="targets")
