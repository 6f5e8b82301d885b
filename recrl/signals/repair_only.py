"""ReCast's repair, then GRPO's signal over all of a group (ReCast's ablation; papers.md D-7).

    R = 1 for an anchor,  then A as in group_zscore

In a group without a hit the response with the lowest structural score becomes an anchor.
"""

from __future__ import annotations

from torch import Tensor

from recrl.groups.rollout import RolloutGroups, Signal
from recrl.parts import Part
from recrl.signals.base import SignalContext, weighted_total
from recrl.signals.group_zscore import GroupZscoreOptions, normalised
from recrl.signals.repair import RepairOptions, refuses_slates, with_anchors


class RepairOnlyOptions(RepairOptions, GroupZscoreOptions):
    """Of the repair, and of GRPO's signal."""


def repair_only(
    groups: RolloutGroups, rewards: Tensor, weights: Tensor, options: RepairOnlyOptions, context: SignalContext
) -> Signal:
    """An anchor earns 1, beside the weighted sums of the others."""
    total, scored = weighted_total(groups, rewards, weights)
    made = with_anchors(groups, total, scored, options, context)
    advantage, informative = normalised(made.reward, made.usable, options)
    active = made.usable & informative.unsqueeze(1) if options.drop_flat else made.groups.exists
    return Signal(made.groups, advantage, active, made.repaired & informative, made.state)


REPAIR_ONLY = Part(
    RepairOnlyOptions, repair_only, source="ReCast, papers.md D-7", refuses=refuses_slates, needs="targets"
)
