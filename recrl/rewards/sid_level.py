"""Credit for every leading SID level in common with the target (SINGER's R_reason, eq. 8; papers.md C-6).

    R_reason = 1 - decay^k

k is the number of leading SID tokens in common with the target.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from recrl.groups.matches import common_levels, distinct, mean_over
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rewards.base import RewardContext, RewardOptions


class SidLevelOptions(RewardOptions):
    decay: float = Field(0.5, gt=0, lt=1)
    """What is left of the distance to 1 with every level in common: the reward is ``1 - decay ** levels``."""


def sid_level(groups: RolloutGroups, options: SidLevelOptions, context: RewardContext) -> Tensor:  # noqa: ARG001
    """[B, G] float32, by the nearest of several targets; of a slate the mean over its items.

    Codes hold no suffix, so the item itself counts one level more than others with all its codes: of items that only a
    suffix tells apart, the target is strictly the best.
    """
    levels = common_levels(groups) + groups.item_hits
    return mean_over(distinct(groups), 1 - options.decay ** levels.float())


SID_LEVEL = Part(SidLevelOptions, sid_level, source="SINGER, eq. 8", needs="targets")
