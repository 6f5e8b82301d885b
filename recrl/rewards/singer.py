"""SINGER's reward: hit and rank where an unguided rollout hit, else the SID level (eq. 9, papers.md C-6).

    R = R_acc + R_rank where some beam hit, R_reason where none did

Its ablations route otherwise: ``hard = "rank"`` is w/o SID, ``easy = "rank+sid"`` is w/ SIDALL (papers.md C-8).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rewards.base import RewardContext
from recrl.rewards.hit import hit
from recrl.rewards.rank import RankOptions, rank
from recrl.rewards.sid_level import SidLevelOptions, sid_level


class SingerOptions(RankOptions, SidLevelOptions):
    easy: Literal["rank", "rank+sid", "sid"] = "rank"
    """Of groups that hit without help: hit and rank, the SID level on top of them, or the SID level alone."""
    hard: Literal["sid", "rank"] = "sid"
    """Of the other groups: the SID level, or hit and rank; ``rank_gate`` says what rank gives them."""


def singer(groups: RolloutGroups, options: SingerOptions, context: RewardContext) -> Tensor:
    """[B, G] float32. A hard group stays one where a second rollout hits behind a given prefix."""
    by_rank = hit(groups, options, context) + rank(groups, options, context)
    by_sid = sid_level(groups, options, context)
    value = {"rank": by_rank, "rank+sid": by_rank + by_sid, "sid": by_sid}
    return torch.where(groups.hard.unsqueeze(1), value[options.hard], value[options.easy])


SINGER = Part(SingerOptions, singer, source="SINGER, eq. 9", needs="targets")
