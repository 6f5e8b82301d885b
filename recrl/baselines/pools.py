"""Candidates that a prompt shows: the best items of a collaborative scorer, never the target by force (papers.md A-7).

The scorer is fitted on the training sequences. A history that was cut from one of them is scored without what that
sequence itself added to the counts: else its target would be among the candidates more often than that of a history
that the scorer has not seen. ``recall`` is the share of targets that are, and bounds what any model can reach.
Letters: U users, N items, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recrl.baselines import Scorer
from recrl.data.dataset import Sequences
from recrl.data.ragged import Ragged
from recrl.data.top_k import top_k

USERS_AT_ONCE = 64
"""Histories that are scored together: so few that their scores stay in a cache."""


@dataclass(frozen=True)
class Retriever:
    """Finds the candidates of histories.

    Attributes:
        scorer: ranks the items.
        popularity: ranks those that the scorer holds equal, as it does with all that it knows nothing of.
        names: [N] what a response that names an item stands for; of items that are called alike one is a candidate.
        size: C, candidates a history.
        by_rank: best first; else in the catalogue's order, which says nothing of the ranking.
    """

    scorer: Scorer
    popularity: Scorer
    names: NDArray[np.int64]
    size: int
    by_rank: bool

    def pools(self, histories: Ragged, own: Sequences | None = None) -> Ragged:
        """Candidates of every history: distinct items that the history does not hold.

        Args:
            own: the training sequences that the histories were cut from, row by row; None for others' histories.
        """
        starts = range(0, len(histories), USERS_AT_ONCE)
        parts = [np.arange(start, min(start + USERS_AT_ONCE, len(histories))) for start in starts]
        found = [self._pools(histories.select(rows), None if own is None else own.select(rows)) for rows in parts]
        values = np.concatenate([np.zeros(0, np.int32), *(part.ravel() for part in found)])
        return Ragged(values, np.arange(len(histories) + 1, dtype=np.int64) * self.size)

    def _pools(self, histories: Ragged, own: Sequences | None) -> NDArray[np.int32]:
        """[U, C] of a few histories."""
        scores = np.array(self.scorer.scores(histories, own), np.float32)
        for item in np.flatnonzero(self.names != np.arange(len(self.names))):
            first = self.names[item]
            scores[:, first] = np.maximum(scores[:, first], scores[:, item])
            scores[:, item] = -np.inf
        user = np.repeat(np.arange(len(histories)), histories.lengths)
        scores[user, self.names[histories.values]] = -np.inf
        found = best(scores, self.popularity.scores(histories, own), self.size)
        return found if self.by_rank else np.sort(found, axis=1)


def best(scores: NDArray[np.float32], popularity: NDArray[np.float32], size: int) -> NDArray[np.int32]:
    """[U, size] the best items of [U, N] scores, best first; of equal ones the more popular, then the lower."""
    last = top_k(scores, size)[:, -1:]
    assert (last >= 0).all(), "a history leaves fewer items than are wanted"
    edge = np.take_along_axis(scores, last, 1)
    tied = np.where(scores == edge, popularity, -np.inf)
    chosen = top_k(np.where(scores > edge, np.inf, tied), size)
    keys = (chosen, *(-np.take_along_axis(values, chosen, 1) for values in (popularity, scores)))
    return np.take_along_axis(chosen, np.lexsort(keys), 1)


def recall(pools: Ragged, targets: Ragged) -> NDArray[np.float64]:
    """[U] share of a row's targets that are among its candidates; NaN where it has none of either."""
    row = np.repeat(np.arange(len(targets)), targets.lengths)
    base = 1 + max(targets.values.max(initial=0), pools.values.max(initial=0))
    held = np.repeat(np.arange(len(pools)), pools.lengths) * base + pools.values
    found = np.bincount(row, np.isin(row * base + targets.values, held), len(targets))
    real = (targets.lengths > 0) & (pools.lengths > 0)
    return np.where(real, found / np.maximum(targets.lengths, 1), np.nan)
