"""The log: prompts are cut from training rows, what the user took next is the target, and nobody answers."""

from __future__ import annotations

from transformers import PretrainedConfig

from recrl.config import RunConfig
from recrl.environments.base import Environment, EnvironmentPart
from recrl.environments.log_prompts import PromptSource
from recrl.groups.prompts import PromptBatch
from recrl.parts import Options
from recrl.run_data import RunData


class LogOptions(Options):
    """There is nothing to choose."""


class LogEnvironment(Environment):
    """Passes over the training rows."""

    def __init__(self, config: RunConfig, world: RunData, model_config: PretrainedConfig) -> None:
        self.source = PromptSource(config, world, model_config)

    def prompts(self, number: int) -> PromptBatch:
        return self.source.batch(number)


def make(
    config: RunConfig,
    world: RunData,
    model_config: PretrainedConfig,
    options: LogOptions,  # noqa: ARG001
) -> LogEnvironment:
    """The environment of a run."""
    return LogEnvironment(config, world, model_config)


LOG = EnvironmentPart(LogOptions, make, gives=lambda options: frozenset({"targets"}))  # noqa: ARG005
