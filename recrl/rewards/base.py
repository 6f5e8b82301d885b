"""What every reward's options have, and what a reward sees besides the groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from recrl.components import Choice, Options
from recrl.environments.base import Feedback


class RewardOptions(Options):
    weight: float = 1.0
    """Its weight where the signal combines several rewards."""


@dataclass(frozen=True)
class RewardContext:
    """What is known of the items, the same through a run, and what was answered to the responses.

    Attributes:
        category: [items] category number; the first SID code where the catalogue names no category.
        engagement: [items] in [0, 1], how much the training users took an item: log(1 + count) over its largest value.
        scorer: a baseline's name and options -> ``[B, H] histories -> [B, items] scores``; fitted once.
        feedback: the environment's answers to the groups at hand; None where it gives none.
    """

    category: Tensor
    engagement: Tensor
    scorer: Callable[[Choice], Callable[[Tensor], Tensor]]
    feedback: Feedback | None = None

    @property
    def answers(self) -> Feedback:
        """The feedback of an environment that gives some."""
        assert self.feedback is not None, "a reward that needs feedback is refused where there is none"
        return self.feedback
