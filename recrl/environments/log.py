"""The log: prompts are cut from training rows, what the user took next is the target, and nobody answers."""

from __future__ import annotations

from recrl.components import Options
from recrl.config import RunConfig
from recrl.environments.base import Environment, EnvironmentPart
from recrl.groups import PromptBatch
from recrl.training.rl_prompts import PromptSource
from recrl.training.setup import World


class LogOptions(Options):
    """There is nothing to choose."""


class LogEnvironment(Environment):
    """Passes over the training rows."""

    def __init__(self, config: RunConfig, world: World) -> None:
        self.source = PromptSource(config, world)

    def prompts(self, number: int) -> PromptBatch:
        return self.source.batch(number)


def make(config: RunConfig, world: World, options: LogOptions) -> LogEnvironment:  # noqa: ARG001
    """The environment of a run."""
    return LogEnvironment(config, world)


LOG = EnvironmentPart(LogOptions, make, gives=lambda options: frozenset({"targets"}))  # noqa: ARG005
