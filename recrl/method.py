"""What a recipe composes: the parts of an RL step, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from recrl.baselines import BASELINES, RECALLERS
from recrl.config import RunConfig
from recrl.environments import ENVIRONMENTS
from recrl.environments.base import EnvironmentPart, Gift
from recrl.errors import ConfigError
from recrl.groups.rollout import RolloutGroups
from recrl.objectives import OBJECTIVES
from recrl.objectives.base import Objective, ObjectiveOptions
from recrl.parts import Choice, Options, Part, resolve
from recrl.rewards import REWARDS
from recrl.rewards.base import RewardContext, RewardOptions
from recrl.rollout import ROLLOUTS
from recrl.rollout.base import RolloutOptions
from recrl.signals import SIGNALS
from recrl.training_sections import RlSection


def check_scorers(config: RunConfig) -> None:
    """Look up the scorers that a run asks, and check their options.

    Raises:
        ConfigError: an unknown kind or option.
    """
    asked = {
        "memory.scorer": (config.memory.weight, RECALLERS, config.memory.scorer),
        "prompts.retriever": (config.prompts.pool, BASELINES, config.prompts.retriever),
        "sft.teacher.scorer": (config.sft.teacher.weight, BASELINES, config.sft.teacher.scorer),
    }
    for where, (used, table, choice) in asked.items():
        if used or choice.kind not in table:
            resolve(table, choice, where=where)


@dataclass(frozen=True)
class Method:
    """What a recipe composes."""

    environment: EnvironmentPart
    environment_options: Options
    rollout: Part
    rollout_options: RolloutOptions
    rewards: tuple[tuple[Part, RewardOptions], ...]
    signal: Part
    signal_options: Options
    objective: Objective
    objective_options: ObjectiveOptions

    @classmethod
    def make(cls, chosen: RlSection) -> Method:
        """Look the parts up and check their options.

        Raises:
            ConfigError: an unknown kind or option.
        """
        environment, environment_options = resolve(ENVIRONMENTS, chosen.environment, where="rl.environment")
        assert isinstance(environment, EnvironmentPart)
        rollout, rollout_options = resolve(ROLLOUTS, chosen.rollout, where="rl.rollout")
        rewards = tuple(
            cast("tuple[Part, RewardOptions]", resolve(REWARDS, reward, where=f"rl.rewards.{place}"))
            for place, reward in enumerate(chosen.rewards)
        )
        signal, signal_options = resolve(SIGNALS, chosen.signal, where="rl.signal")
        objective, objective_options = resolve(OBJECTIVES, chosen.objective, where="rl.objective")
        _check_together(chosen, rollout_options, *rewards, (signal, signal_options), (objective, objective_options))
        parts = [(chosen.rollout, rollout), *zip(chosen.rewards, (part for part, _ in rewards), strict=True)]
        gives, source = environment.gives(environment_options), f"rl.environment.kind = {chosen.environment.kind!r}"
        asked_with = environment.asked_with
        if chosen.targets == "frontier":
            gives, source, asked_with = gives - {"targets"}, "rl.targets = 'frontier'", {}
        _check_gifts(source, gives, asked_with, *parts, (chosen.signal, signal))
        return cls(
            environment,
            environment_options,
            rollout,
            cast("RolloutOptions", rollout_options),
            rewards,
            signal,
            signal_options,
            cast("Objective", objective),
            cast("ObjectiveOptions", objective_options),
        )

    def reward(self, groups: RolloutGroups, context: RewardContext) -> Tensor:
        """[B, G, M], one column a reward."""
        columns = []
        for part, options in self.rewards:
            paid = part.run(groups, options, context)
            columns.append(paid * context.rarity(groups.items, options.rarity_power) if options.rarity_power else paid)
        return torch.stack(columns, -1)

    @property
    def weights(self) -> list[float]:
        return [options.weight for _, options in self.rewards]


def _check_gifts(
    source: str, gives: frozenset[Gift], asked_with: Mapping[Gift, str], *parts: tuple[Choice, Part]
) -> None:
    """Refuse parts that wait for what the source of the prompts does not give."""
    lacks = {
        "targets": "it works with the item that would be right, which is not told there",
        "feedback": "it reads what users answer, and nobody answers there",
    }
    for choice, part in parts:
        if part.needs and part.needs not in gives:
            ask = f"set {asked_with[part.needs]}, or " if part.needs in asked_with else ""
            raise ConfigError(
                f"{choice.kind!r} does not go with {source}",
                why=lacks[part.needs],
                fix=f"{ask}choose a kind that needs no {part.needs}, or other prompts (`recrl config schema`)",
            )


def _check_together(chosen: RlSection, rollout: Options, *parts: tuple[Part, Options]) -> None:
    """Refuse parts that can't work on the rollout's groups."""
    kinds = [*(f"rewards.{place}" for place in range(len(chosen.rewards))), "signal", "objective"]
    for key, (part, options) in zip(kinds, parts, strict=True):
        reason = part.refuses(options, rollout) if part.refuses else ""
        if reason:
            raise ConfigError(
                f"rl.{key} does not go with rl.rollout.kind = {chosen.rollout.kind!r}",
                why=reason,
                fix="choose another of the two, or change the option that it names",
            )
