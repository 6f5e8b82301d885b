"""The prompts of RL: passes over the training rows, each in an order of its own."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.baselines import pools
from recrl.config import RunConfig
from recrl.data.dataset import Examples
from recrl.data.examples import item_examples, next_examples, whole_examples, with_target
from recrl.data.held_out import only_held_out
from recrl.data.ragged import Ragged
from recrl.errors import UserError
from recrl.groups.prompts import PromptBatch
from recrl.prompts.writer import ITEM_TASKS, POOLED, TITLE_RESPONSES
from recrl.ranking.lists import named_alike
from recrl.ranking.rank import PromptTable, padded_targets
from recrl.run_data import RunData
from recrl.seeding import generator

logger = logging.getLogger(__name__)
BY_TITLE = TITLE_RESPONSES | {"title_to_sid"}
"""Tasks in which every item of the target's title is right."""


def asks_for_titles(config: RunConfig) -> bool:
    """Whether any task of RL answers with a title."""
    return any(task in TITLE_RESPONSES and weight > 0 for task, weight in config.rl.tasks.items())


class PromptSource:
    """Gives the prompts of any step; only the latest pass is kept in memory.

    Raises:
        UserError: there is nothing to ask for.
    """

    def __init__(self, config: RunConfig, world: RunData, model_config: Any) -> None:
        """``model_config``: the Hugging Face config of the model that RL starts from."""
        self._config = config
        self._world = world
        train = world.dataset.train
        held_out = config.rl.targets == "held_out"
        self._rows = only_held_out(train, model_config) if held_out else np.arange(len(train))
        self._train = train.select(self._rows)
        self._number, self._table = 0, self._make(0)
        self.per_pass = len(self._table)  # the same in every pass

    def batch(self, step: int) -> PromptBatch:
        """The prompts of one step."""
        size = min(self._config.rl.prompts_per_step, self.per_pass)
        number, place = divmod(step, self.per_pass // size)
        table = self.table(number)
        order = generator(self._config.rl_seed, "rl", "order", number).permutation(self.per_pass)
        rows = np.sort(order[place * size : (place + 1) * size])
        return table.batch(rows, self._world.device)

    def table(self, number: int) -> PromptTable:
        """The prompts of pass ``number``."""
        if number != self._number:
            self._number, self._table = number, self._make(number)
        return self._table

    def _make(self, number: int) -> PromptTable:
        """All tasks concatenated, each as often as its weight says."""
        tables, drawn = [], []
        for task, weight in sorted(self._config.rl.tasks.items()):
            examples = self._examples(task, number)
            if weight > 0 and not len(examples):
                raise UserError(
                    "RL has nothing to ask for",
                    why=f"the data set has no training rows for {task!r}, or rows of a single item",
                    fix="prepare data with longer histories, or choose other rl.tasks",
                )
            for copy in range(int(np.ceil(weight))):
                share = min(1.0, weight - copy)
                rng = generator(self._config.rl_seed, "rl", "task", task, number, copy)
                rows = np.sort(rng.permutation(len(examples))[: round(share * len(examples))])
                tables.append(examples.select(rows))
                drawn.append((task, rows))
        if not any(map(len, tables)):
            raise UserError("RL has nothing to ask for", why="rl.tasks gives no rows", fix="raise a weight")
        return self._table_of(Examples.join(tables), self._sequences_of(drawn), first=number == 0)

    def _table_of(self, examples: Examples, sequence: NDArray[np.int64], *, first: bool) -> PromptTable:
        named = named_alike(examples, self._world.trie).targets
        targets = self._titled_alike(named, np.isin(examples.tasks, list(BY_TITLE)))
        history = examples.history.tail(self._world.writer.history_limit)
        root = np.isin(examples.tasks, list(TITLE_RESPONSES)).astype(np.int64)
        codes = self._world.codes.cpu()
        own = self._world.dataset.train.select_some(sequence) if self._world.writer.looks_things_up else None
        prompts = self._world.writer.prompts(examples, own)
        if first and prompts.pool is not None and prompts.pool.lengths.any():
            held = 100 * np.nanmean(pools.recall(prompts.pool, named))
            logger.info("%.1f %% of the targets of RL's prompts are among their candidates", held)
        return PromptTable(prompts, padded_targets(targets, codes), history, root, sequence)

    def _titled_alike(self, targets: Ragged, by_title: NDArray[np.bool_]) -> Ragged:
        """Targets, in chosen rows with all items that bear the same titles."""
        if not by_title.any():
            return targets
        writer = self._world.writer
        _, title = np.unique([writer.title(item) for item in range(len(writer.catalog))], return_inverse=True)
        alike = np.split(np.argsort(title, kind="stable"), np.cumsum(np.bincount(title))[:-1])
        return Ragged.from_lists(
            [
                [int(item) for target in row for item in alike[title[target]]] if widened else row.tolist()
                for row, widened in zip(targets, by_title, strict=True)
            ]
        )

    def _sequences_of(self, drawn: list[tuple[str, NDArray[np.int64]]]) -> NDArray[np.int64]:
        """Training sequences that the examples of tasks were cut from, -1 for those about no history."""
        source = self._rows if self._config.rl.targets == "frontier" else self._rows[with_target(self._train)]
        return np.concatenate([source[rows] if task in POOLED else np.full_like(rows, -1) for task, rows in drawn])

    def _examples(self, task: str, number: int) -> Examples:
        dataset, options = self._world.dataset, self._config.rl
        if task == "recif":
            given = dataset.train_examples
            return given.select(np.flatnonzero(given.labels < 0))
        if task in ITEM_TASKS:
            return item_examples(len(dataset.catalog), task)
        train = self._train
        count = self._config.prompts.slate_size if task == "slate" else 1
        if options.targets == "frontier":
            return whole_examples(train, task)
        if options.targets == "any":
            return next_examples(train, task, generator(self._config.rl_seed, "rl", "targets", number), count)
        if options.targets == "held_out":
            count = 1  # the items before it are targets of SFT
        last = np.maximum(train.items.lengths - count, train.first_target)  # a single item has nothing before it
        return next_examples(replace(train, first_target=last.astype(np.int32)), task, None, count)
