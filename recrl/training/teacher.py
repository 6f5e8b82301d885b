"""Soft targets for SFT from a collaborative scorer.

A next-item loss sees one target a position; a scorer that counts co-occurrence over all users knows which other items
would have done. Its best items become responses of the shared-prefix layout, weighted by their scores: a positive-only
distillation, in which nothing is pushed down that the softmax does not push down itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.baselines import BASELINES, Scorer
from recrl.config import RunConfig
from recrl.data.dataset import Examples, Sequences
from recrl.data.examples import next_examples
from recrl.data.ragged import Ragged
from recrl.data.top_k import top_k
from recrl.errors import UserError
from recrl.groups.packed import PackedGroups
from recrl.parts import resolve
from recrl.ranking.rank import PromptTable
from recrl.run_data import RunData
from recrl.seeding import generator
from recrl.training.rows import RowMaker
from recrl.training_sections import TeacherSection


@dataclass(frozen=True)
class Teacher:
    """A fitted scorer and what turns its items into packed rows."""

    scorer: Scorer
    options: TeacherSection
    rows: RowMaker
    device: torch.device
    seed: int

    @classmethod
    def make(cls, config: RunConfig, world: RunData, rows: RowMaker) -> Teacher:
        """Fit the scorer on the training sequences, and on nothing else.

        Raises:
            UserError: there are fewer items than ``responses``.
        """
        wanted, items = config.sft.teacher.responses, len(world.dataset.catalog)
        if wanted > items:
            raise UserError(
                f"sft.teacher.responses = {wanted}", why=f"the catalogue has {items} items", fix="ask for fewer"
            )
        part, options = resolve(BASELINES, config.sft.teacher.scorer, where="sft.teacher.scorer")
        scorer = part.run(world.dataset.train, world.dataset.catalog, options)
        return cls(scorer, config.sft.teacher, rows, world.device, config.run.seed)

    def batch(self, step: int) -> PackedGroups:
        """Histories of one step with their soft targets; ``advantage`` holds the weights.

        Positive weights sum to 1 a history; the negative ones of items to push down sum to ``-unlikelihood``.

        Histories in which the scorer knows nothing are left out.
        """
        examples, own = self._asked(generator(self.seed, "teacher", step))
        by_length = np.argsort(examples.history.lengths, kind="stable")  # like lengths share a micro-batch
        examples, own = examples.select(by_length), own.select(by_length)
        history = examples.history.tail(self.rows.writer.history_limit)
        # Without the history's own counts: else the scores tell what this very user took next, and nothing else.
        scores = np.array(self.scorer.scores(history, own), np.float32)
        if self.options.exclude_history:
            scores[np.repeat(np.arange(len(history)), history.lengths), history.values] = 0
        items = top_k(scores, self.options.responses).astype(np.int64)
        weights = np.maximum(np.take_along_axis(scores, items, 1), 0)
        known = weights.sum(1) > 0
        items, weights = items[known], weights[known] / weights[known].sum(1, keepdims=True)
        if self.options.unlikelihood:
            repeats, exists = _latest(history.select(np.flatnonzero(known)), self.options.unlikely)
            share = -self.options.unlikelihood / exists.sum(1, keepdims=True)
            items, weights = np.hstack([items, repeats]), np.hstack([weights, np.where(exists, share, 0)])
        rows = np.flatnonzero(known)
        prompts = self.rows.writer.prompts(examples.select(rows), own.select(rows))
        return self._packed(prompts, items, weights)

    def _asked(self, rng: np.random.Generator) -> tuple[Examples, Sequences]:
        """Histories that end within training sequences, with these sequences, and single items of the catalogue."""
        train, singles = self.rows.dataset.train, round(self.options.item_share * self.options.prompts)
        usable = np.flatnonzero(train.items.lengths > train.first_target)
        rows = rng.choice(usable, size=self.options.prompts - singles)
        items = rng.integers(len(self.rows.dataset.catalog), size=singles, dtype=np.int32)
        nobody, places = np.full(singles, -1), np.arange(singles + 1)
        alone = Examples.plain(nobody.astype(np.int32), Ragged(items, places), Ragged.from_lists([[]] * singles))
        examples = Examples.join([next_examples(train.select(rows), "next", rng), alone])
        return examples, train.select_some(np.concatenate([rows, nobody]))

    def _packed(self, prompts: Ragged, items: NDArray[Any], weights: NDArray[Any]) -> PackedGroups:
        row, column = np.nonzero(weights)
        chosen = items[row, column]
        responses, nodes = self.rows.responses.select(chosen), self.rows.item_nodes.select(chosen)
        tokens = responses.padded(-1)
        mask = tokens >= 0
        first = np.searchsorted(row, np.arange(len(prompts)))

        def tensor(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values).to(self.device)

        return PackedGroups(
            PromptTable.without_targets(prompts).batch(np.arange(len(prompts)), self.device),
            tensor(row),
            tensor(np.arange(len(row)) - first[row]),
            tensor(np.maximum(tokens, 0)),
            tensor(mask),
            tensor(nodes.padded(0)),
            tensor(weights[row, column].astype(np.float32)),
            tensor(np.ones(len(row), np.int64)),
            tensor(np.zeros(len(row), np.float32)),
        )


def _latest(histories: Ragged, count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """[U, count] the latest items of every history, latest first, and which of these places exist."""
    place = histories.lengths[:, None] - 1 - np.arange(count)
    exists = place >= 0
    items = histories.values[histories.offsets[:-1, None] + np.maximum(place, 0)]
    return items.astype(np.int64), exists


def soft_target_loss(logp: Tensor, weight: Tensor) -> Tensor:
    """Sum over responses of the weighted log-likelihood, or unlikelihood where the weight is negative, negated.

    Unlikelihood is ``log(1 - p)`` of the whole response: its gradient fades as p does, so it takes from repeated items
    what they have and pushes nothing far below that.

    Args:
        logp: [N, R] log-probabilities of tokens, 0 after the end.
        weight: [N].
    """
    total = logp.sum(1)
    unlikely = torch.log1p(-total.clamp(max=-1e-6).exp())
    return -torch.where(weight >= 0, weight * total, -weight * unlikely).sum()
