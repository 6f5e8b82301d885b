"""What a prepared data set holds, in numbers; and which items are cold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.data.dataset import Dataset
from recrl.data.frequency import cold_items, dataset_counts

COLD_FRACTION = 0.2
TOP_CATEGORIES = 10
QUANTILES = {"min": 0.0, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


def summarise(dataset: Dataset, interactions: int | None) -> dict[str, Any]:
    """Numbers for ``dataset.json`` and the table; ``interactions`` is None where the source came split."""
    counts = dataset_counts(dataset)
    cold = cold_items(counts, dataset.catalog.item_ids, fraction=COLD_FRACTION)
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
            "max_count": int(counts[cold].max(initial=0)),
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
