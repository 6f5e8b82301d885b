"""Which items a memory recalls for histories, and what it knows of each.

The scorer is fitted on the training sequences; a history that was cut from one of them is scored without what that
sequence added to the counts, as a history from outside of training is. Everything that grows with the catalogue is
sparse. Letters: U users, M recalled items, F features, N items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from recrl.data.dataset import Sequences
from recrl.data.frequency import membership, own_counts
from recrl.data.ragged import Ragged
from recrl.data.rows import evenly
from recrl.memory.recalled import Recalled

USERS_AT_ONCE = 256
CONTEXT = 6
"""Features that do not depend on the scorer: share, place, count, whole score, length of the history, last count."""
SMALL = 1e-4
"""Added to shares and scores before their logarithm, so that none is -inf."""
SCALED_ON = 500
"""Training sequences whose ends the features are scaled on."""


class Recaller(Protocol):
    """A baseline that a memory can be made of: its scores are sparse, and it says what they are made of."""

    def evidence(self, histories: Ragged, own: Sequences | None = None) -> tuple[sparse.csr_matrix, ...]:
        """[U, N] sparse, not negative: the summands of the score."""

    def closeness(self, histories: Ragged, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """[U, M] items, -1 for none -> [U, M, K] float32: how near each is to single items of the history."""


@dataclass(frozen=True)
class Recollections:
    """``Recalled`` on the host, for whole data sets."""

    items: NDArray[np.int32]
    share: NDArray[np.float32]
    features: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.items)

    def select(self, rows: NDArray[np.int64]) -> Recollections:
        return Recollections(self.items[rows], self.share[rows], self.features[rows])

    def tensors(self, device: torch.device) -> Recalled:
        items = torch.from_numpy(self.items.astype(np.int64))
        return Recalled(*(part.to(device) for part in (items, *map(torch.from_numpy, (self.share, self.features)))))


class Scaling(NamedTuple):
    """[F] float32 each: what is taken from a feature, and what it is divided by."""

    centre: NDArray[np.float32]
    spread: NDArray[np.float32]


@dataclass(frozen=True)
class Memory:
    """Recalls the best items of a scorer.

    Attributes:
        counts: [N] occurrences in training.
        names: [N] what a response that names an item stands for; of items with one name one is recalled.
        size: M, items a history at most.
        exclude_history: whether items of the history are left out.
        scaling: of the features; None leaves them as they are.
    """

    scorer: Recaller
    counts: NDArray[np.int64]
    names: NDArray[np.int64]
    size: int
    exclude_history: bool
    scaling: Scaling | None = None

    def scaled(self, train: Sequences) -> Memory:
        """The same with features of mean 0 and deviation 1 over what it recalls at the ends of training sequences."""
        rows = evenly(len(train), SCALED_ON)
        own = train.select(rows)
        end = np.maximum(own.items.lengths - 1, 0)
        found = replace(self, scaling=None).recall(own.items.cut(np.zeros_like(end), end), own)
        known = found.features[found.items >= 0].astype(np.float64)
        if not len(known):
            return self
        spread = known.std(0)
        scaling = Scaling(known.mean(0).astype(np.float32), np.where(spread > SMALL, spread, 1).astype(np.float32))
        return replace(self, scaling=scaling)

    @property
    def num_features(self) -> int:
        """F."""
        nobody = Ragged.from_lists([[]])
        parts = len(self.scorer.evidence(nobody))
        near: int = self.scorer.closeness(nobody, np.full((1, 1), -1)).shape[-1]
        return CONTEXT + parts + near

    def recall(self, histories: Ragged, own: Sequences | None = None) -> Recollections:
        """Items of every history.

        Args:
            own: the training sequences that the histories were cut from, row by row; None for others' histories.
        """
        starts = range(0, max(len(histories), 1), USERS_AT_ONCE)
        parts = [np.arange(start, min(start + USERS_AT_ONCE, len(histories))) for start in starts]
        found = [self._recall(histories.select(rows), None if own is None else own.select(rows)) for rows in parts]
        columns = ([getattr(part, name) for part in found] for name in ("items", "share", "features"))
        return Recollections(*map(np.concatenate, columns))

    def _recall(self, histories: Ragged, own: Sequences | None) -> Recollections:
        evidence = [self._named(part) for part in self.scorer.evidence(histories, own)]
        scores = _sum(evidence)
        if self.exclude_history:
            scores = _without(scores, histories, self.names)
        items, score = best(scores, self.size)
        total = np.asarray(scores.sum(axis=1), np.float32).reshape(-1, 1)
        share = np.where(items >= 0, score / np.maximum(total, 1e-30), 0).astype(np.float32)
        rows = np.arange(len(items))[:, None]
        known = np.maximum(items, 0)
        parts = [np.asarray(part[rows, known].toarray(), np.float32) for part in evidence]
        context = self._context(items, share, total, histories, own)
        columns = [*context, *(np.log(part + SMALL) / 4 for part in parts)]
        near = self.scorer.closeness(histories, items)
        features = np.concatenate([np.stack(columns, -1), near], -1).astype(np.float32)
        if self.scaling is not None:
            features = (features - self.scaling.centre) / self.scaling.spread
        return Recollections(items.astype(np.int32), share, np.where(items[..., None] >= 0, features, 0))

    def _named(self, scores: sparse.csr_matrix) -> sparse.csr_matrix:
        """The scores of items with one name, added up at the one that stands for them."""
        if (self.names == np.arange(len(self.names))).all():
            return scores
        named = sparse.csr_matrix((scores.data, self.names[scores.indices], scores.indptr), shape=scores.shape)
        named.sum_duplicates()
        return named

    def _context(
        self,
        items: NDArray[np.int64],
        share: NDArray[np.float32],
        total: NDArray[np.float32],
        histories: Ragged,
        own: Sequences | None,
    ) -> list[NDArray[np.float64]]:
        """``CONTEXT`` features of [U, M] items each, of the size of 1."""
        count = self.counts[np.maximum(items, 0)].astype(np.float64)
        last = np.full(len(histories), -1)
        some = histories.lengths > 0
        last[some] = histories.values[histories.offsets[1:][some] - 1]
        of_last = np.where(some, self.counts[np.maximum(last, 0)], 0).astype(np.float64)
        if own is not None:
            mine = own_counts(own, len(self.counts))
            rows = np.arange(len(items))
            count -= mine[rows[:, None], np.maximum(items, 0)].toarray()
            of_last -= np.where(some, np.asarray(mine[rows, np.maximum(last, 0)]).ravel(), 0)

        def wide(column: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.broadcast_to(column[:, None], items.shape)

        return [
            np.log(share + SMALL) / 4,
            np.broadcast_to(np.log1p(np.arange(items.shape[1])) / 4, items.shape),
            np.log1p(count) / 4,
            wide(np.log(total[:, 0] + SMALL) / 4),
            wide(np.log1p(histories.lengths) / 4),
            wide(np.log1p(of_last) / 4),
        ]


def best(scores: sparse.csr_matrix, size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """[U, N] sparse -> [U, size] items with the highest scores above 0, best first, and their scores.

    Behind the last stand -1 and 0; of equal scores the lower item comes first.
    """
    rows = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    kept = scores.data > 0
    row, item, score = rows[kept], scores.indices[kept], scores.data[kept]
    order = np.lexsort((item, -score, row))
    row, item, score = row[order], item[order], score[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    kept = place < size
    items = np.full((scores.shape[0], size), -1, np.int64)
    values = np.zeros((scores.shape[0], size), np.float32)
    items[row[kept], place[kept]], values[row[kept], place[kept]] = item[kept], score[kept]
    return items, values


def _sum(parts: list[sparse.csr_matrix]) -> sparse.csr_matrix:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total.tocsr()


def _without(scores: sparse.csr_matrix, histories: Ragged, names: NDArray[np.int64]) -> sparse.csr_matrix:
    """The scores, 0 for what the history holds."""
    named = Ragged(names[histories.values].astype(np.int32), histories.offsets)
    return (scores - scores.multiply(membership(named, scores.shape[1]))).tocsr()
