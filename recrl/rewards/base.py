"""What every reward's options have, and what a reward sees besides the groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from recrl.environments.base import Feedback
from recrl.groups.prompts import PromptBatch
from recrl.parts import Choice, Options


class RewardOptions(Options):
    weight: float = 1.0
    """Its weight where the signal combines several rewards."""
    rarity_power: float = Field(0.0, ge=0, le=2)
    """The reward of a response is multiplied by (n + 1)^-rarity_power, n the training count of its items, scaled to a
    mean of 1 over the training interactions: what training shows rarely is worth more. 0 leaves rewards alone."""


@dataclass(frozen=True)
class RewardContext:
    """What is known of the items, the same through a run, and what was answered to the responses.

    Attributes:
        category: [items] category number; the first SID code where the catalogue names no category.
        engagement: [items] in [0, 1], how much the training users took an item: log(1 + count) over its largest value.
        counts: [items] int64, occurrences in training.
        scorer: a baseline's name and options -> ``prompts -> [B, items] scores of their histories``; fitted once.
        feedback: the environment's answers to the groups at hand; None where it gives none.
    """

    category: Tensor
    engagement: Tensor
    counts: Tensor
    scorer: Callable[[Choice], Callable[[PromptBatch], Tensor]]
    feedback: Feedback | None = None

    def rarity(self, items: Tensor, power: float) -> Tensor:
        """[B, G, I] items, -1 for none -> [B, G] factors of their rewards, 1 where none is named."""
        weight = (self.counts + 1.0) ** -power
        total = self.counts.sum()
        scale = (weight * self.counts).sum() / total if total else weight.mean()
        named = items >= 0
        mean = torch.where(named, weight[items.clamp(min=0)], 0.0).sum(-1) / named.sum(-1).clamp(min=1)
        return torch.where(named.any(-1), mean / scale, 1.0)

    @property
    def answers(self) -> Feedback:
        """The feedback of an environment that gives some."""
        assert self.feedback is not None, "a reward that needs feedback is refused where there is none"
        return self.feedback
