"""What a fitted collaborative scorer thinks of the items; it needs no target and is dense where hits are sparse.

    R = mean score of the distinct items of a response, normalised within its group

A history that was cut from a training sequence is scored without what that sequence added to the scorer's counts: they
would tell what this very user took next, and nothing of what others might.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from recrl.groups.matches import distinct, mean_over
from recrl.groups.rollout import RolloutGroups
from recrl.groups.within_group import masked_zscore
from recrl.parts import Choice, Part
from recrl.rewards.base import RewardContext, RewardOptions


class CollaborativeOptions(RewardOptions):
    scorer: Choice = Choice(kind="sasrec")
    """A baseline and its options; it is fitted on the training sequences when the reward is first asked for. ``sasrec``
    keeps no counts, so nothing of a history's own sequence can be taken out."""
    normalise: Literal["zscore", "softmax", "raw"] = "zscore"
    """Within the group: z-scores, their softmax, or the scorer's own numbers."""
    temperature: float = Field(1.0, gt=0)
    """Of the softmax."""


def collaborative(groups: RolloutGroups, options: CollaborativeOptions, context: RewardContext) -> Tensor:
    """[B, G] float32: the mean score of the items that a response names; NaN where it exists and names none."""
    scores = context.scorer(options.scorer)(groups.prompts)  # [B, items]
    items = groups.items
    own = scores.gather(1, items.clamp(min=0).flatten(1)).view_as(items).float()
    value, names = mean_over(distinct(groups), own), groups.names
    if options.normalise != "raw":
        value, _ = masked_zscore(value, names, scale=True, eps=1e-6, ddof=1)
    if options.normalise == "softmax":
        # Finite, since the softmax of a group that names nothing would be NaN.
        value = (value / options.temperature).masked_fill(~names, torch.finfo(value.dtype).min).softmax(1)
    return torch.where(groups.exists, value.masked_fill(~names, float("nan")), 0.0)


COLLABORATIVE = Part(CollaborativeOptions, collaborative)
