"""Validation during training, and when it says stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recrl.backends.policy import Policy
from recrl.config import RunConfig
from recrl.data.ragged import Ragged
from recrl.errors import UserError
from recrl.evaluation.metrics import ndcg_at, pass_at
from recrl.ranking.lists import Lists, named_alike
from recrl.run_data import RunData
from recrl.seeding import generator

K = 10


@dataclass(frozen=True)
class Validation:
    """A fixed draw of validation examples, scored by real constrained beam search."""

    prompts: Ragged
    targets: Ragged
    world: RunData
    width: int
    lists: Lists

    @classmethod
    def make(cls, config: RunConfig, world: RunData) -> Validation:
        examples = world.dataset.valid
        rows = np.flatnonzero(examples.labels < 0)
        if not len(rows):
            raise UserError(
                "the data set has no validation examples",
                why="they say when to stop and which checkpoint is best",
                fix="prepare data in which a user has three items or more, or with a valid file",
            )
        limit = config.eval.valid_examples
        if 0 < limit < len(rows):
            rows = np.sort(generator(config.run.seed, "valid").permutation(rows)[:limit])
        examples = examples.select(rows)
        lists = Lists.of(config)
        width = min(config.eval.valid_beam_width, len(world.dataset.catalog))
        targets = named_alike(examples, world.trie).targets
        return cls(lists.prompts(world.writer, examples), targets, world, width, lists)

    def score(self, policy: Policy) -> dict[str, float]:
        """``valid/hr@10`` and ``valid/ndcg@10``."""
        ranking = self.lists.rank(
            policy, self.world.trie, self.prompts, self.width, min(K, self.width), self.world.ranks
        )
        hits = pass_at(ranking.items, self.targets, ranking.items.shape[1])
        gains = ndcg_at(ranking.items, self.targets, ranking.items.shape[1])
        return {"valid/hr@10": float(hits.mean()), "valid/ndcg@10": float(gains.mean())}


@dataclass(frozen=True)
class Progress:
    """The best validation so far; immutable, so that a checkpoint can hold it."""

    best: float = -1.0
    best_step: int = -1
    start: float = -1.0
    last: float = -1.0
    bad: int = 0

    def after(self, step: int, value: float) -> Progress:
        """With one more validation; the first one is the start."""
        start = value if self.start < 0 else self.start
        if value > self.best:
            return Progress(value, step, start, value, 0)
        return Progress(self.best, self.best_step, start, value, self.bad + 1)

    def out_of_patience(self, patience: int) -> bool:
        """No better value for ``patience`` validations; 0 never is."""
        return 0 < patience <= self.bad

    def fell_below(self, max_drop: float) -> bool:
        """The last value is a relative ``max_drop`` below the start."""
        return self.last < self.start * (1 - max_drop)
