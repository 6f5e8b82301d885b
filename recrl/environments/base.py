"""The seam between RL and what it acts on: prompts for a step, and answers to the items that a rollout shows.

Letters: B prompts, G responses a prompt, I items of a response.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part

Gift = Literal["targets", "feedback"]
"""What an environment may know: the items that would be right, or its users' answers to the items shown."""


@dataclass(frozen=True)
class Feedback:
    """Answers to every shown item, 0 or False where a response names none.

    Attributes:
        clicked: [B, G, I] bool.
        watch_s: [B, G, I] float32, seconds; above 0 only where clicked.
        commented: [B, G, I] bool; only where clicked.
        rejected: [B, G, I] bool: the user said that the item is unwanted; never where clicked.
    """

    clicked: Tensor
    watch_s: Tensor
    commented: Tensor
    rejected: Tensor


class Environment(ABC):
    """Gives prompts and answers. Both follow from the run's seed and a number alone, on every rank the same."""

    @abstractmethod
    def prompts(self, number: int) -> PromptBatch:
        """The batch of prompts with this number; called ahead of time, in a thread of its own."""

    def respond(self, number: int, groups: RolloutGroups) -> Feedback | None:  # noqa: ARG002
        """Answers to what was shown to batch ``number``; None where nobody answers."""
        return None

    def take_metrics(self) -> dict[str, float]:
        """Metrics of the answers since the last call."""
        return {}

    def stop_reason(self) -> str:
        """Why no further batch can be shown; empty where one can."""
        return ""

    @property
    def state(self) -> dict[str, int]:
        """What a checkpoint holds."""
        return {}

    def restore(self, state: dict[str, int]) -> None:  # noqa: B027 most environments have no state
        """Go on from a checkpoint's state."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentPart(Part):
    """An environment, what it gives under some options, and which option makes it give more."""

    gives: Callable[[Any], frozenset[Gift]]
    asked_with: Mapping[Gift, str] = field(default_factory=dict)
