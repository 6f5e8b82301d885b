"""How often training shows an item, and which items are cold (papers.md A-8)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recrl.data.dataset import Dataset, Sequences
from recrl.data.ragged import Ragged


def counted(train: Sequences) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The training interactions, each once: the row and the item of each.

    Of a sliding sample only the targets count: its history repeats interactions of the samples before it. A row whose
    targets begin at its second item counts whole, because no sample before it holds the first.
    """
    items = train.items
    row = np.repeat(np.arange(len(train)), items.lengths)
    position = np.arange(len(items.values)) - items.offsets[row]
    first = np.where(train.first_target <= 1, 0, train.first_target)[row]
    kept = position >= first
    return row[kept], items.values[kept].astype(np.int64)


def training_counts(train: Sequences, num_items: int) -> NDArray[np.int64]:
    """[N]: how often every item occurs in the training interactions (see ``counted``)."""
    return np.bincount(counted(train)[1], minlength=num_items)


def own_counts(train: Sequences, num_items: int) -> sparse.csr_matrix:
    """[rows, N] sparse: what every training sequence adds to the counts."""
    row, item = counted(train)
    added = sparse.csr_matrix((np.ones(len(row)), (row, item)), shape=(len(train), num_items))
    added.sum_duplicates()
    return added


def membership(rows: Ragged, num_items: int) -> sparse.csr_matrix:
    """[rows, N] sparse: 1 where a row holds the item, however often."""
    row = np.repeat(np.arange(len(rows)), rows.lengths)
    held = sparse.csr_matrix((np.ones(len(row)), (row, rows.values)), shape=(len(rows), num_items))
    held.sum_duplicates()
    held.data[:] = 1
    return held


def cold_items(
    counts: NDArray[np.integer[Any]], item_ids: Sequence[str], *, fraction: float = 0.2, seed: int = 0
) -> NDArray[np.bool_]:
    """[N]: True for the ``floor(fraction * N)`` items that training saw least, never seen ones included.

    Ties are large (an eighth of Toys has a count of 4), so they are settled by a hash of the seed and the item's own
    id: the same on every machine and whatever the order of the catalogue.

    Raises:
        ValueError: the two have different lengths, or the fraction is not within 0..1.
    """
    if len(counts) != len(item_ids) or not 0 <= fraction <= 1:
        raise ValueError(f"{len(counts)} counts for {len(item_ids)} items, fraction {fraction}")
    keys = [hashlib.blake2b(f"{seed}:{item}".encode(), digest_size=8).digest() for item in item_ids]
    tie = np.array([int.from_bytes(key, "big") for key in keys], np.uint64)
    cold = np.zeros(len(counts), np.bool_)
    num_cold = int(fraction * len(counts) + 1e-9)  # 0.29 * 100 is 28.999999999999996
    cold[np.lexsort((tie, counts))[:num_cold]] = True
    return cold


def dataset_counts(dataset: Dataset) -> NDArray[np.int64]:
    """[items]: the training sequences, and history and targets of the training examples."""
    examples = dataset.train_examples
    values = np.concatenate([examples.history.values, examples.targets.values])
    num_items = len(dataset.catalog)
    return training_counts(dataset.train, num_items) + np.bincount(values, minlength=num_items)
