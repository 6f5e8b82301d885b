"""SINGER's dynamic sampling: more samples than are wanted, of which the distinct ones stay (papers.md C-8, DYNAMIC).

One and a half times ``group_size`` samples are drawn; of every distinct response one copy stays, those that name a
target first, then the most frequent, then the first drawn. Where fewer are distinct, second copies fill the group,
then third ones, each time by frequency alone: AkaliKong/MiniOneRec, which keeps all copies of the target, leaves less
room for other items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rollout.base import RolloutContext
from recrl.rollout.responses import item_groups
from recrl.rollout.sample import SampleOptions, sample


def rollout(prompts: PromptBatch, options: SampleOptions, context: RolloutContext) -> RolloutGroups:
    """The best-spread ``group_size`` of int(1.5 x ``group_size``) samples."""
    more = options.model_copy(update={"group_size": options.group_size * 3 // 2})
    samples = sample(context.policy, context.trie, prompts, more, context.seed, context.first)
    drawn = item_groups(prompts, samples, context.codes)
    place = spread(drawn.tokens.masked_fill(~drawn.mask, -1), drawn.hits)[:, : options.group_size]
    return drawn.responses(place)


def spread(tokens: Tensor, hits: Tensor) -> Tensor:
    """[B, W] places of the samples in the order in which they are taken.

    Args:
        tokens: [B, W, R] of the samples, -1 after the end.
        hits: [B, W] bool: the sample names a target.
    """
    same = (tokens.unsqueeze(1) == tokens.unsqueeze(2)).all(-1)  # [B, W, W]
    count = same.sum(-1)
    copy = same.tril(-1).sum(-1)  # copies of it that were drawn before
    number = torch.arange(tokens.shape[1], device=tokens.device)
    # By copy, then hits, then count, then the draw: the least important key first, since a sort keeps equals in order.
    order = number.expand_as(count)
    first_hit = hits & (copy == 0)
    for key in (-count, (~first_hit).to(count.dtype), copy):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    return order


DYNAMIC = Part(SampleOptions, rollout, source="SINGER, papers.md C-8", needs="targets")
