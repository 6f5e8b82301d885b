"""ReCast: repair, then one positive against one negative a group; every other row is gone (papers.md D).

    i+ = argmax of the reward,  i- = argmax of the structural score u among the misses
    A(i+) = weight,  A(i-) = -weight x negative_weight,  every other row is inactive

``repair = "never"`` is its ablation boundary-only, the signal ``repair_only`` the other one.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from recrl.groups.rollout import RolloutGroups, Signal
from recrl.parts import Part
from recrl.signals.base import SignalContext, weighted_total
from recrl.signals.repair import RepairOptions, refuses_slates, with_anchors


class RecastOptions(RepairOptions):
    weight: float = Field(1.0, gt=0)
    """Advantage of the positive."""
    negative_weight: float = Field(1.0, ge=0)
    """Advantage of the negative, as a share of ``weight`` and with its sign turned."""
    anchor_weight: Literal["full", "share"] = "full"
    """What a repaired group's pair counts beside the others': as much, or the share of groups that is repaired, so that
    it fades out with ``repair = "linear"``."""
    normalize_by: Literal["active", "group"] = "active"
    """What the mean over a prompt's rows divides by: the rows that are left, or all responses of the group."""
    require_valid_negative: bool = True
    """Leave out groups whose misses all name no item."""


def recast(
    groups: RolloutGroups, rewards: Tensor, weights: Tensor, options: RecastOptions, context: SignalContext
) -> Signal:
    """Boundary contrast after repair; a group without both sides is left out. A miss is what earns nothing or less."""
    total, scored = weighted_total(groups, rewards, weights)
    usable = scored & groups.names if options.require_valid_negative else scored
    made = with_anchors(groups, total, usable, options, context)
    positive, negative = context.ops.boundary_select(
        made.reward.clamp(min=0), made.score, made.groups.logp.sum(-1), made.usable
    )
    paired = (positive >= 0) & (negative >= 0)
    advantage, active = torch.zeros_like(made.reward), torch.zeros_like(made.usable)
    row = paired.nonzero().squeeze(1)
    weight = torch.full_like(made.reward[:, 0], options.weight)
    if options.normalize_by == "group":  # the loss divides by the two rows that are left
        weight = weight * 2 / groups.exists.sum(1).clamp(min=1)
    if options.anchor_weight == "share":
        weight = torch.where(made.repaired, weight * made.share, weight)
    advantage[row, positive[row]] = weight[row]
    advantage[row, negative[row]] = -weight[row] * options.negative_weight
    active[row, positive[row]] = True
    active[row, negative[row]] = True
    return Signal(made.groups, advantage, active, made.repaired & paired, made.state)


RECAST = Part(RecastOptions, recast, source="ReCast, papers.md D", refuses=refuses_slates, needs="targets")
"""Advantages +w and -w; they are not normalised again."""
