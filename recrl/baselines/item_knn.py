"""Item-kNN on windowed co-occurrence: what followed, or came before, the items that the user saw last.

Similarity of i and j: the sum over training of 1 / distance for j at most ``window`` places after i, plus
``backward_weight`` times the same for j before i, divided by sqrt((n_i + shrinkage) (n_j + shrinkage)), n the
occurrences in training. A user's score of an item is the sum of its similarities to the last ``num_recent`` history
items, each weighted 1 / (places from the end, the last item 1). A windowed, directed form of cosine item-to-item
filtering (Sarwar et al., 2001).
Letters: U users, N items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from recrl.data.dataset import Catalog, Sequences
from recrl.data.frequency import own_counts, training_counts
from recrl.data.ragged import Ragged
from recrl.parts import Options, Part

INTERACTIONS_AT_ONCE = 1 << 20
"""Counted together: their pairs take half a GiB before those that repeat are added up."""
ROUNDING = 1e-6
"""Share of a history's largest score, its own counts among it, below which a score is the rounding of a difference."""


class ItemKnnOptions(Options):
    """The defaults are one setting for every data set."""

    window: int = Field(3, ge=1)
    """Largest distance at which two items of a sequence count as seen together."""
    backward_weight: float = Field(0.5, ge=0)
    """Weight of "came before" against "came after" 1. Both help: the order within a day is noise."""
    num_recent: int = Field(10, ge=1)
    """Items of the history that are looked at."""
    shrinkage: float = Field(50.0, ge=0)
    """Added to both counts of the cosine; it damps pairs of rare items. 50 is best on validation of Amazon Toys and
    Beauty, and 20 to 100 are close."""


@dataclass(frozen=True)
class ItemKnn:
    """A fitted model.

    Attributes:
        similarity: [N, N] sparse float32, from history item to candidate.
        counts: [N] occurrences in training.
    """

    similarity: sparse.csr_matrix
    counts: NDArray[np.int64]
    options: ItemKnnOptions

    def scores(self, histories: Ragged, own: Sequences | None = None) -> NDArray[np.float32]:
        """[U, N]; a history that shares nothing with training, or an empty one, scores 0 everywhere."""
        return np.asarray(self.sparse_scores(histories, own).toarray(), np.float32)

    def sparse_scores(self, histories: Ragged, own: Sequences | None = None) -> sparse.csr_matrix:
        """The same as [U, N] sparse float32, without the zeros."""
        weights = recency_weights(histories, self.options.num_recent, len(self.counts))
        if own is None:
            return (weights @ self.similarity).tocsr()
        mine, lift = self._own_counts(own)
        weights = weights + weights.multiply(lift)
        user, first, second, weight = _both_ways(own, self.options)
        scale = _scale(self.counts, self.options.shrinkage)
        # An empty selection of a sparse matrix is no array.
        asked = np.asarray(weights[user, first]).ravel() if len(user) else np.zeros(0)
        taken = weight * asked * scale[first] * scale[second]
        counted_in = (weights @ self.similarity).tocsr()
        scores = (counted_in - sparse.csr_matrix((taken, (user, second)), shape=mine.shape)).tocsr()
        largest = np.asarray(counted_in.max(axis=1).toarray()).ravel()
        scores.data[np.abs(scores.data) <= ROUNDING * np.repeat(largest, np.diff(scores.indptr))] = 0
        scores.eliminate_zeros()
        return (scores + scores.multiply(lift)).tocsr().astype(np.float32)

    def evidence(self, histories: Ragged, own: Sequences | None = None) -> tuple[sparse.csr_matrix, ...]:
        """As ``recrl.memory.recall.Recaller`` has it: the score alone."""
        return (self.sparse_scores(histories, own),)

    def closeness(self, histories: Ragged, items: NDArray[np.int64]) -> NDArray[np.float32]:  # noqa: ARG002
        """Nothing: what it knows of two items is in the score."""
        return np.zeros((*items.shape, 0), np.float32)

    def _own_counts(self, own: Sequences) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """[U, N] each: what the sequences added to the counts, and by what share an item's scale is larger without."""
        mine = own_counts(own, len(self.counts))
        item = mine.indices
        left = self.counts[item] - mine.data
        shrinkage = self.options.shrinkage
        lift = mine.copy()
        lift.data = _scale(left, shrinkage) / _scale(self.counts[item], shrinkage) - 1
        return mine, lift


def recency_weights(histories: Ragged, num_recent: int, num_items: int) -> sparse.csr_matrix:
    """[U, N] float32: 1 / (places from the end) of the last items of every history, summed where one repeats."""
    recent = histories.tail(num_recent)
    place = np.arange(len(recent.values)) - np.repeat(recent.offsets[:-1], recent.lengths)
    from_end = np.repeat(recent.lengths, recent.lengths) - place
    shape = (len(recent), num_items)
    return sparse.csr_matrix(((1 / from_end).astype(np.float32), recent.values, recent.offsets), shape=shape)


def fit(train: Sequences, catalog: Catalog, options: ItemKnnOptions) -> ItemKnn:
    """Count co-occurrences in the training sequences and normalise them; memory grows with the pairs, not N * N."""
    counts = training_counts(train, len(catalog))
    together = sparse.csr_matrix((len(catalog), len(catalog)))
    for rows in _blocks(train):
        _, first, second, weight = _both_ways(train.select(rows), options)
        together = together + sparse.csr_matrix((weight, (first, second)), shape=together.shape)
    scale = _scale(counts, options.shrinkage)
    together.data *= np.repeat(scale, np.diff(together.indptr))  # in place: as matrices both would be copies of it
    together.data *= scale[together.indices]
    similarity = (together.data.astype(np.float32), together.indices, together.indptr)
    return ItemKnn(sparse.csr_matrix(similarity, shape=together.shape), counts, options)


def _blocks(train: Sequences) -> list[NDArray[np.int64]]:
    """The sequences in order, so many at once that they hold about ``INTERACTIONS_AT_ONCE`` items."""
    offsets = train.items.offsets
    ends = np.searchsorted(offsets, np.arange(INTERACTIONS_AT_ONCE, offsets[-1], INTERACTIONS_AT_ONCE))
    return np.split(np.arange(len(train)), np.unique(ends))


def _scale(counts: NDArray[np.int64] | NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """What an item's co-occurrences are multiplied by; an item without any count has no co-occurrence."""
    return np.asarray(1 / np.sqrt(np.maximum(counts + shrinkage, 1)))


def _both_ways(train: Sequences, options: ItemKnnOptions) -> tuple[NDArray[np.int64], ...]:
    """Pairs of different items at most ``window`` places apart: sequence, item, the other item, weight.

    A pair counts where its later item is a target, so that the overlapping histories of sliding samples count once. An
    item bought again says nothing about other items.
    """
    items = train.items.values.astype(np.int64)
    row = np.repeat(np.arange(len(train)), train.items.lengths)
    place = np.arange(len(items)) - train.items.offsets[row]
    is_target = place >= train.first_target[row]
    parts = []
    for distance in range(1, options.window + 1):
        near = (row[distance:] == row[:-distance]) & is_target[distance:] & (items[distance:] != items[:-distance])
        earlier = np.flatnonzero(near)
        later = earlier + distance
        parts.append((row[earlier], items[earlier], items[later], np.full(len(earlier), 1 / distance)))
        if options.backward_weight:
            back = np.full(len(earlier), options.backward_weight / distance)
            parts.append((row[earlier], items[later], items[earlier], back))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


ITEM_KNN = Part(ItemKnnOptions, fit, source="Sarwar et al. 2001, windowed")
