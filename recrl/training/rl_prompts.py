"""The prompts of RL: passes over the training rows, each in an order of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from recrl.config import RunConfig
from recrl.data.dataset import Examples
from recrl.data.ragged import Ragged
from recrl.errors import UserError
from recrl.evaluation.protocols import padded_targets, prompt_batch
from recrl.groups import PromptBatch, Targets
from recrl.seeding import generator
from recrl.training.rows import next_examples
from recrl.training.setup import World


@dataclass(frozen=True)
class PromptTable:
    """All prompts of one pass."""

    number: int
    ids: Ragged
    targets: Targets

    def __len__(self) -> int:
        return len(self.ids)


class PromptSource:
    """Gives the prompts of any step; only the latest pass is kept in memory."""

    def __init__(self, config: RunConfig, world: World) -> None:
        self._config = config
        self._world = world
        self._table = self._make(0)
        self.per_pass = len(self._table)  # the same in every pass
        if not self.per_pass:
            raise UserError(
                "RL has nothing to ask for",
                why=f"the data set has no training rows for {config.rl.task!r}, or rows of a single item",
                fix="prepare data with longer histories, or choose another rl.task",
            )

    def batch(self, step: int) -> PromptBatch:
        """The prompts of one step."""
        size = min(self._config.rl.prompts_per_step, self.per_pass)
        number, place = divmod(step, self.per_pass // size)
        table = self.table(number)
        order = generator(self._config.run.seed, "rl", "order", number).permutation(self.per_pass)
        rows = np.sort(order[place * size : (place + 1) * size])
        return prompt_batch(table.ids, table.targets, rows, self._world.device)

    def table(self, number: int) -> PromptTable:
        """The prompts of pass ``number``."""
        if number != self._table.number:
            self._table = self._make(number)
        return self._table

    def _make(self, number: int) -> PromptTable:
        examples = self._examples(number)
        targets = padded_targets(examples.targets, self._world.codes.cpu())
        return PromptTable(number, self._world.writer.prompts(examples), targets)

    def _examples(self, number: int) -> Examples:
        dataset, options = self._world.dataset, self._config.rl
        if options.task == "recif":
            given = dataset.train_examples
            return given.select(np.flatnonzero(given.labels < 0))
        train = dataset.train
        if options.targets == "last":
            last = np.maximum(train.items.lengths - 1, train.first_target)  # a single item has nothing before it
            train = replace(train, first_target=last.astype(np.int32))
        return next_examples(train, options.task, generator(self._config.run.seed, "rl", "targets", number))
