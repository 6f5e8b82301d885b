"""ReCast: repair, then one positive against one negative a group; every other row is gone (METHODS D)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from recrl.components import Part
from recrl.groups import RolloutGroups, Signal
from recrl.signals.base import SignalContext
from recrl.signals.repair import RepairOptions, repair, repair_share, structural_score


class RecastOptions(RepairOptions):
    weight: float = Field(1.0, gt=0)
    """Advantage of the positive."""
    negative_weight: float = Field(1.0, ge=0)
    """Advantage of the negative, as a share of ``weight`` and with its sign turned."""
    require_valid_negative: bool = True
    """Leave out groups whose misses all name no item."""


def recast(
    groups: RolloutGroups, rewards: Tensor, weights: Tensor, options: RecastOptions, context: SignalContext
) -> Signal:
    """Boundary contrast after repair; a group without both sides is left out."""
    reward, score = (rewards * weights).sum(-1), structural_score(groups)
    usable = groups.names if options.require_valid_negative else groups.exists
    hits, misses = usable & (reward > 0), usable & (reward == 0)
    trainable = hits.any(1) & misses.any(1)
    share, state = repair_share(options, context.state, float(trainable.float().mean()))
    draw = torch.rand(len(reward), generator=torch.Generator().manual_seed(context.seed)).to(reward.device)
    answerable = groups.prompts.targets.items[:, 0] >= 0
    repaired = ~hits.any(1) & answerable & groups.exists.any(1) & (draw < share)
    groups = repair(groups, repaired, score, context.trie)
    if bool(repaired.any()):
        anchors = groups.hits & repaired.unsqueeze(1)
        reward, score = torch.where(anchors, 1.0, reward), structural_score(groups)
        usable = usable | anchors
    positive, negative = context.ops.boundary_select(reward, score, groups.logp.sum(-1), usable)
    paired = (positive >= 0) & (negative >= 0)
    advantage = torch.zeros_like(reward)
    row = paired.nonzero().squeeze(1)
    advantage[row, positive[row]] = options.weight
    advantage[row, negative[row]] = -options.weight * options.negative_weight
    active = torch.zeros_like(groups.exists)
    active[row, positive[row]] = True
    active[row, negative[row]] = True
    return Signal(groups, advantage, active, repaired & paired, state)


RECAST = Part(RecastOptions, recast, source="ReCast, METHODS D")
"""Advantages +w and -w; they are not normalised again."""
