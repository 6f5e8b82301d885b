"""What a prepared data set holds, in numbers; and which items are cold."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.data.dataset import Dataset

COLD_FRACTION = 0.2
TOP_CATEGORIES = 10
QUANTILES = {"min": 0.0, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


def train_counts(dataset: Dataset) -> NDArray[np.int64]:
    """[items] how often an item occurs in training data.

    Of a sequence the targets count, and the first item too where ``first_target`` is 1: so a whole history counts every
    interaction once, and so do the sliding samples of one. Of training examples history and targets count.
    """
    items, first = dataset.train.items, dataset.train.first_target
    position = np.arange(len(items.values)) - np.repeat(items.offsets[:-1], items.lengths)
    starts = np.repeat(np.where(first == 1, 0, first), items.lengths)
    examples = dataset.train_examples
    values = np.concatenate([items.values[position >= starts], examples.history.values, examples.targets.values])
    return np.bincount(values, minlength=len(dataset.catalog))


def cold_items(dataset: Dataset, fraction: float = COLD_FRACTION, seed: int = 0) -> NDArray[np.int64]:
    """The ``floor(fraction * items)`` items of least training frequency (METHODS A-8), as sorted item indices.

    Ties are cut by a hash of seed and item id, so the choice does not follow the order of the catalogue. Items that
    training never shows are the coldest.
    """
    counts = train_counts(dataset)
    keys = [
        hashlib.blake2b(f"{seed}:{item_id}".encode(), digest_size=8).digest() for item_id in dataset.catalog.item_ids
    ]
    order = np.lexsort((np.array([int.from_bytes(key, "big") for key in keys], np.uint64), counts))
    return np.sort(order[: int(fraction * len(order))])


def summarise(dataset: Dataset, interactions: int | None) -> dict[str, Any]:
    """Numbers for ``dataset.json`` and the table; ``interactions`` is None where the source came split."""
    counts = train_counts(dataset)
    num_users, num_items = len(dataset.user_ids), len(dataset.catalog)
    cells = num_users * num_items
    categories = Counter(category for category in dataset.catalog.categories if category)
    summary: dict[str, Any] = {
        "users": num_users,
        "items": num_items,
        "interactions": interactions,
        "sparsity": 1 - interactions / cells if interactions is not None and cells else None,
        "rows": {
            "train": len(dataset.train),
            "train_examples": len(dataset.train_examples),
            "valid": len(dataset.valid),
            "test": len(dataset.test),
        },
        "history_length": {
            "train": _quantiles(dataset.train.items.lengths),
            "valid": _quantiles(dataset.valid.history.lengths),
            "test": _quantiles(dataset.test.history.lengths),
        },
        "cold_items": {
            "count": int(COLD_FRACTION * num_items),
            "definition": f"the {COLD_FRACTION:.0%} of items of least training frequency, ties by hash",
            "max_count": int(counts[cold_items(dataset)].max(initial=0)),
            "never_in_train": int((counts == 0).sum()),
        },
        "categories": {
            "count": len(categories),
            "items_without": num_items - sum(categories.values()),
            "largest": dict(categories.most_common(TOP_CATEGORIES)),
        },
    }
    if len(dataset.train) == 0 and len(dataset.train_examples) == 0:
        summary["warning"] = "no training rows: the data set can be evaluated on, not trained on"
    elif len(dataset.valid) == 0 or len(dataset.test) == 0:
        summary["warning"] = "no valid or no test rows: no user, or no sample, was left for them"
    return summary


def _quantiles(lengths: NDArray[np.int64]) -> dict[str, float]:
    if len(lengths) == 0:
        return {}
    return {name: float(np.quantile(lengths, at)) for name, at in QUANTILES.items()} | {"mean": float(lengths.mean())}
