"""What an index is worth before any model is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.sids.codes import SidIndex


def statistics(
    index: SidIndex,
    categories: Sequence[str],
    embedding: NDArray[np.float32] | None = None,
    reconstruction: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Figures for ``sid.json`` and the table of ``recrl sid build``.

    Args:
        categories: [items] names, "" where unknown; unknown ones are left out of the purity.
        embedding: [items, d], with ``reconstruction``; None where the SIDs came with the data.

    Returns:
        ``items``, ``levels`` (a dict a level: size, used, perplexity), ``unique_paths``, ``shared_items`` (items on a
        path that others have too), ``collision_rate`` (1 - unique paths / items), ``collision_rate_with_suffix``,
        ``largest_cluster`` (items on one full path), ``suffixes``, ``reconstruction_error`` (share of the embedding's
        variance that the codes lose; None without one), ``category_purity`` (None without categories; see ``purity``).
    """
    items = len(index)
    counts = np.unique(index.codes, axis=0, return_counts=True)[1]
    whole = np.column_stack([index.codes, index.suffix])
    levels = []
    for level, size in enumerate(index.sizes):
        used = np.bincount(index.codes[:, level], minlength=size)
        levels.append({"size": size, "used": int((used > 0).sum()), "perplexity": perplexity(used)})
    return {
        "items": items,
        "levels": levels,
        "unique_paths": len(counts),
        "shared_items": int((index.suffix >= 0).sum()),
        "collision_rate": 1 - len(counts) / items,
        "collision_rate_with_suffix": 1 - len(np.unique(whole, axis=0)) / items,
        "largest_cluster": int(counts.max()),
        "suffixes": index.num_suffixes,
        "reconstruction_error": _lost_variance(embedding, reconstruction),
        "category_purity": purity(index.codes, categories),
    }


def perplexity(counts: NDArray[np.int64]) -> float:
    """exp of the entropy: as many codes as this, used equally, would be as hard to guess."""
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def purity(codes: NDArray[np.int32], categories: Sequence[str]) -> list[float] | None:
    """[L] for prefixes of 1 to L codes: the share of items that have the most frequent category of their prefix.

    It rises with the prefix's length by itself, as an item alone is pure; compare indices at equal ``unique_paths``.
    """
    known = np.array([category != "" for category in categories], bool)
    if not known.any():
        return None
    category = np.unique(np.asarray(categories)[known], return_inverse=True)[1].reshape(-1)
    result = []
    for length in range(1, codes.shape[1] + 1):
        prefix = np.unique(codes[known, :length], axis=0, return_inverse=True)[1].reshape(-1)
        pairs, count = np.unique(np.column_stack([prefix, category]), axis=0, return_counts=True)
        most = np.zeros(prefix.max() + 1, np.int64)
        np.maximum.at(most, pairs[:, 0], count)
        result.append(float(most.sum() / len(prefix)))
    return result


def _lost_variance(embedding: NDArray[np.float32] | None, reconstruction: NDArray[np.float32] | None) -> float | None:
    if embedding is None or reconstruction is None:
        return None
    lost = float(np.square(embedding - reconstruction).sum(dtype=np.float64))
    whole = float(np.square(embedding - embedding.mean(axis=0)).sum(dtype=np.float64))
    # Equal vectors have no variance to lose: 0 or all of it.
    return lost / whole if whole > 0 else float(lost > 0)
