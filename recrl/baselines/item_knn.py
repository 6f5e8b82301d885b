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
    """A fitted model: ``similarity`` [N, N] sparse float32, from history item to candidate."""

    similarity: sparse.csr_matrix
    num_recent: int

    def scores(self, histories: Ragged) -> NDArray[np.float32]:
        """[U, N]; a history that shares nothing with training, or an empty one, scores 0 everywhere."""
        recent = histories.tail(self.num_recent)
        place = np.arange(len(recent.values)) - np.repeat(recent.offsets[:-1], recent.lengths)
        from_end = np.repeat(recent.lengths, recent.lengths) - place
        shape = (len(recent), self.similarity.shape[0])
        weights = sparse.csr_matrix(((1 / from_end).astype(np.float32), recent.values, recent.offsets), shape=shape)
        return np.asarray((weights @ self.similarity).toarray(), np.float32)


def fit(train: Sequences, num_items: int, options: ItemKnnOptions) -> ItemKnn:
    """Count co-occurrences in the training sequences and normalise them; memory grows with the pairs, not N * N."""
    counts = training_counts(train, num_items)
    together = _followers(train, num_items, options.window)
    together = together + options.backward_weight * together.T
    together.setdiag(0)  # an item bought again says nothing about other items
    together.eliminate_zeros()
    scale = sparse.diags(1 / np.sqrt(np.maximum(counts + options.shrinkage, 1)))
    return ItemKnn((scale @ together @ scale).tocsr().astype(np.float32), options.num_recent)


def _followers(train: Sequences, num_items: int, window: int) -> sparse.csr_matrix:
    """[N, N]: sum of 1 / distance over the places where the column's item comes after the row's.

    A pair counts where its later item is a target, so that the overlapping histories of sliding samples count once.
    """
    items = train.items.values
    row = np.repeat(np.arange(len(train)), train.items.lengths)
    place = np.arange(len(items)) - train.items.offsets[row]
    is_target = place >= train.first_target[row]
    total = sparse.csr_matrix((num_items, num_items), dtype=np.float64)
    for distance in range(1, window + 1):
        near = np.flatnonzero((row[distance:] == row[:-distance]) & is_target[distance:])
        weight = np.full(len(near), 1 / distance)
        total = total + sparse.csr_matrix((weight, (items[near], items[near + distance])), shape=total.shape)
    return total


ITEM_KNN = Part(ItemKnnOptions, fit, source="Sarwar et al. 2001, windowed")
