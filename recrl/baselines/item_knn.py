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

from recrl.components import Options, Part
from recrl.data.dataset import Sequences
from recrl.data.frequency import training_counts
from recrl.data.ragged import Ragged


class ItemKnnOptions(Options):
    """The defaults are one setting for every data set."""

    window: int = Field(3, ge=1)
    """Largest distance at which two items of a sequence count as seen together."""
    backward_weight: float = Field(0.5, ge=0)
    """Weight of "came before" against "came after" 1. Both help: the order within a day is noise."""
    num_recent: int = Field(10, ge=1)
    """Items of the history that are looked at."""
    shrinkage: float = Field(0.0, ge=0)
    """Added to both counts of the cosine; above 0 it damps pairs of rare items."""


@dataclass(frozen=True)
class ItemKnn:
    """A fitted model.

    Attributes:
        similarity: [N, N] sparse float32, from history item to candidate.
        scale: [N] what an item's co-occurrences are multiplied by.
    """

    similarity: sparse.csr_matrix
    scale: NDArray[np.float64]
    options: ItemKnnOptions

    def scores(self, histories: Ragged, own: Sequences | None = None) -> NDArray[np.float32]:
        """[U, N]; a history that shares nothing with training, or an empty one, scores 0 everywhere."""
        recent = histories.tail(self.options.num_recent)
        place = np.arange(len(recent.values)) - np.repeat(recent.offsets[:-1], recent.lengths)
        from_end = np.repeat(recent.lengths, recent.lengths) - place
        shape = (len(recent), self.similarity.shape[0])
        weights = sparse.csr_matrix(((1 / from_end).astype(np.float32), recent.values, recent.offsets), shape=shape)
        scores = np.asarray((weights @ self.similarity).toarray(), np.float32)
        if own is not None:
            user, first, second, weight = _both_ways(own, self.options)
            weight = weight * np.asarray(weights[user, first]).ravel() * self.scale[first] * self.scale[second]
            np.subtract.at(scores, (user, second), weight.astype(np.float32))
        return scores


def fit(train: Sequences, num_items: int, options: ItemKnnOptions) -> ItemKnn:
    """Count co-occurrences in the training sequences and normalise them; memory grows with the pairs, not N * N."""
    counts = training_counts(train, num_items)
    _, first, second, weight = _both_ways(train, options)
    together = sparse.csr_matrix((weight, (first, second)), shape=(num_items, num_items))
    scale = 1 / np.sqrt(np.maximum(counts + options.shrinkage, 1))
    similarity = (sparse.diags(scale) @ together @ sparse.diags(scale)).tocsr().astype(np.float32)
    return ItemKnn(similarity, scale, options)


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
