"""The synthetic marketplace: prompts of users that no log holds, and their answers to what they are shown.

The environment alone knows a visitor's hidden taste group and the time of the visit; ``behaviour.py`` says how both
make clicks, watch times, comments and rejections of the true next-item distribution.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from transformers import PretrainedConfig

from recrl.config import RunConfig
from recrl.data.dataset import Examples
from recrl.data.marketplace import MarketOptions, build_market
from recrl.data.ragged import Ragged
from recrl.data.visitors import Visitors, draw_visitors, truth
from recrl.environments.base import Environment, EnvironmentPart, Feedback, Gift
from recrl.environments.behaviour import Answers, BehaviourOptions, answers
from recrl.errors import ConfigError, UserError
from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import RolloutGroups
from recrl.parts import resolve
from recrl.prompts.writer import CONTINUED
from recrl.ranking.lists import named_alike
from recrl.ranking.rank import PromptTable, padded_targets
from recrl.rollout import ROLLOUTS
from recrl.rollout.base import RolloutOptions
from recrl.run_data import RunData
from recrl.seeding import generator, seed_of


class MarketEnvironmentOptions(BehaviourOptions):
    budget: int = Field(0, ge=0)
    """Impressions of a run at most, an item that is shown to a visitor each; the run ends where the next step might
    pass it. 0 is no limit."""
    reveal_next: bool = False
    """Whether the item that the visitor takes by himself after the visit is known, as in a log, and is the prompt's
    target. It counts as an impression."""


class MarketEnvironment(Environment):
    """Visitors and their answers."""

    def __init__(
        self,
        config: RunConfig,
        world: RunData,
        model_config: PretrainedConfig,  # noqa: ARG002 what a model has learned does not change who visits
        options: MarketEnvironmentOptions,
    ) -> None:
        self._config, self._world, self._options = config, world, options
        self._market = build_market(market_options(world))
        self._task = task_of(config)
        self._most_of_a_step = most_of_a_step(config, options)
        if 0 < options.budget < self._most_of_a_step:
            raise ConfigError(
                f"rl.environment.budget = {options.budget}",
                why=f"one step may show {self._most_of_a_step:,} items, so there would be none",
                fix="allow as many, or set rl.prompts_per_step or rl.rollout.group_size lower",
            )
        if config.rl.targets != "any":
            raise ConfigError(
                f"rl.targets = '{config.rl.targets}' does not go with rl.environment.kind = 'market'",
                why="its prompts are of visitors that no training sequence holds",
                fix="leave it out",
            )
        self.impressions = 0
        self._recent: Counter[str] = Counter()
        # Prompts are made a batch ahead of the answers.
        self._visitors = lru_cache(maxsize=3)(self._draw)

    def _draw(self, number: int) -> Visitors:
        seed = seed_of(self._config.rl_seed, "environment", "visitors", number)
        return draw_visitors(self._market, self._config.rl.prompts_per_step, seed)

    def prompts(self, number: int) -> PromptBatch:
        world, visitors = self._world, self._visitors(number)
        rows = len(visitors.now)
        taken = Ragged(visitors.next_item.astype(np.int32), np.arange(rows + 1, dtype=np.int64))
        examples = Examples.plain(np.full(rows, -1, np.int32), visitors.history, taken)
        examples = replace(examples, tasks=[self._task] * rows)
        known = named_alike(examples, world.trie).targets if self._options.reveal_next else Ragged.empty(rows)
        table = PromptTable(
            world.writer.prompts(examples),
            padded_targets(known, world.codes.cpu()),
            visitors.history.tail(world.writer.history_limit),
            np.zeros(rows, np.int64),
        )
        return table.batch(np.arange(rows), world.device)

    def respond(self, number: int, groups: RolloutGroups) -> Feedback:
        visitors = self._visitors(number)
        assert len(visitors.now) == len(groups.prompts)
        rng = generator(self._config.rl_seed, "environment", "answers", number)
        given = answers(self._market, truth(self._market, visitors), visitors.group, visitors.now, self._options, rng)
        items = torch.where(groups.exists.unsqueeze(-1), groups.items, -1).cpu().numpy()
        self._count(given, items)
        return feedback_of(given, items, groups.items.device)

    def _count(self, given: Answers, items: NDArray[np.int64]) -> None:
        shown = shown_items(items, given.clicked.shape[1])
        self.impressions += int(shown.sum()) + self._options.reveal_next * len(shown)
        clicked = given.clicked & shown
        self._recent.update(
            {
                "shown": int(shown.sum()),
                "clicks": int(clicked.sum()),
                "watch_s": float(given.watch_s[shown].sum()),
                "comments": int((given.commented & shown).sum()),
                "rejections": int((given.rejected & shown).sum()),
                "visits": len(shown),
                "visits_without_click": int((~clicked.any(1)).sum()),
            }
        )

    def take_metrics(self) -> dict[str, float]:
        seen, self._recent = self._recent, Counter()
        shown, visits = max(seen["shown"], 1), max(seen["visits"], 1)
        return {
            "environment/impressions": float(self.impressions),
            "environment/click_ratio": seen["clicks"] / shown,
            "environment/watch_s": seen["watch_s"] / shown,
            "environment/comment_ratio": seen["comments"] / shown,
            "environment/rejection_ratio": seen["rejections"] / shown,
            "environment/no_click_ratio": seen["visits_without_click"] / visits,
        }

    def stop_reason(self) -> str:
        budget = self._options.budget
        if budget and self.impressions + self._most_of_a_step > budget:
            return f"{self.impressions:,} impressions were made, and the next step might pass the budget of {budget:,}"
        return ""

    @property
    def state(self) -> dict[str, int]:
        return {"impressions": self.impressions}

    def restore(self, state: dict[str, int]) -> None:
        self.impressions = state["impressions"]


def market_options(world: RunData) -> MarketOptions:
    """The options that a prepared data set was made with.

    Raises:
        UserError: it was not made by the marketplace.
    """
    meta = world.dataset.meta
    if meta.get("format") != "synthetic":
        raise UserError(
            "rl.environment.kind = 'market'",
            why=f"data.path holds a data set of format {meta.get('format')!r}, and only the marketplace that made its "
            "users can make further ones",
            fix="prepare data with `recrl data prepare synthetic`, or use rl.environment.kind = 'log'",
        )
    return MarketOptions.model_validate(meta["options"])


def task_of(config: RunConfig) -> str:
    """What visitors are asked for.

    Raises:
        ConfigError: several tasks, or one that is not about the next items.
    """
    tasks = [task for task, weight in config.rl.tasks.items() if weight > 0]
    if len(tasks) != 1 or tasks[0] not in CONTINUED:
        raise ConfigError(
            f"rl.tasks = {tasks}",
            why="visitors of rl.environment.kind = 'market' are shown next items or slates",
            fix="keep the task 'next', or 'slate', alone",
        )
    return tasks[0]


def most_of_a_step(config: RunConfig, options: MarketEnvironmentOptions) -> int:
    """Impressions of a step in which no item is shown twice to a visitor."""
    _, rollout = resolve(ROLLOUTS, config.rl.rollout, where="rl.rollout")
    assert isinstance(rollout, RolloutOptions)
    of_a_visit = rollout.group_size * rollout.slate_size + options.reveal_next
    return config.rl.prompts_per_step * config.rl.max_gen_batches * of_a_visit


def shown_items(items: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """[B, items] bool: the item is among [B, G, I] items, -1 for none; one shown twice to a visitor counts once."""
    shown = np.zeros((len(items), count + 1), bool)
    np.put_along_axis(shown, items.reshape(len(items), -1), True, axis=1)  # -1 is the last column
    return shown[:, :-1]


def feedback_of(given: Answers, items: NDArray[np.int64], device: torch.device) -> Feedback:
    """The answers to [B, G, I] items, -1 for none."""
    flat = items.reshape(len(items), -1)

    def at_items(values: NDArray[np.generic]) -> Tensor:
        found = np.take_along_axis(values, np.maximum(flat, 0), axis=1)
        return torch.from_numpy(np.where(flat >= 0, found, found.dtype.type(0)).reshape(items.shape)).to(device)

    return Feedback(
        at_items(given.clicked), at_items(given.watch_s), at_items(given.commented), at_items(given.rejected)
    )


def gives(options: MarketEnvironmentOptions) -> frozenset[Gift]:
    """Feedback, and targets where they are revealed."""
    return frozenset({"feedback", "targets"}) if options.reveal_next else frozenset({"feedback"})


MARKET = EnvironmentPart(
    MarketEnvironmentOptions,
    MarketEnvironment,
    "recrl's own marketplace",
    gives=gives,
    asked_with={"targets": "rl.environment.reveal_next = true"},
)
