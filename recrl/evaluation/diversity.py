"""Diversity, coverage and cold items of ranked lists (SAGE's tables; papers.md A-8).

Letters: U users, K positions of a list, N items, C categories, D embedding width. ``predictions`` [U, K] are read as in
``metrics.py``: -1 is no item, a duplicate keeps its position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recrl.data.ragged import Ragged
from recrl.evaluation.metrics import Bools, Floats, Ints, PerUser, check_targets, first_k, first_occurrence, hits

USERS_PER_CHUNK = 4096


@dataclass(frozen=True)
class Entropy:
    """Entropy of the categories of lists; NaN where no list holds an item with a category.

    Attributes:
        pooled_nats: of one histogram over the lists of all users.
        per_list_nats: [U], of every list's own histogram; at most ln(K). NaN for a list without any category.
    """

    pooled_nats: float
    per_list_nats: PerUser

    @property
    def pooled_bits(self) -> float:
        return self.pooled_nats / float(np.log(2))

    @property
    def per_list_bits(self) -> PerUser:
        return np.asarray(self.per_list_nats / np.log(2))


def entropy_at(predictions: Ints, categories: Ints, k: int) -> Entropy:
    """Entropy@k. SAGE's tables pool over users; bits are the likely unit there (papers.md A-8).

    A duplicate counts as often as it is shown. Positions without an item, and items without a category, are left out.

    Args:
        categories: [N] codes from ``category_codes``.
    """
    lists = first_k(predictions, k)
    shown = np.where(lists >= 0, categories[lists], -1)
    num_categories = int(categories.max(initial=-1)) + 1
    per_list = np.full(len(lists), np.nan)
    total = np.zeros(num_categories, np.int64)
    for start in range(0, len(lists), USERS_PER_CHUNK):
        part = shown[start : start + USERS_PER_CHUNK]
        row, position = np.nonzero(part >= 0)
        cell = row * num_categories + part[row, position]
        counts = np.bincount(cell, minlength=len(part) * num_categories).reshape(len(part), num_categories)
        per_list[start : start + len(part)] = _entropy_nats(counts)
        total += counts.sum(axis=0)
    return Entropy(float(_entropy_nats(total[None])[0]), per_list)


def ild_at(predictions: Ints, embeddings: Floats, k: int) -> PerUser:
    """[U]: ILD@k, the mean of 1 - cos over the unordered pairs of distinct items; NaN with fewer than two.

    The cosine with an all-zero embedding is taken as 0.

    Args:
        embeddings: [N, D], frozen text embeddings of the items.
    """
    lists = first_k(predictions, k)
    distinct = first_occurrence(lists)
    norm = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = np.divide(embeddings, norm, out=np.zeros(embeddings.shape), where=norm > 0)
    result = np.full(len(lists), np.nan)
    for start in range(0, len(lists), USERS_PER_CHUNK):
        keep = distinct[start : start + USERS_PER_CHUNK]
        vectors = unit[lists[start : start + USERS_PER_CHUNK]] * keep[..., None]
        # Sum over pairs from the norm of the sum: |sum e|^2 = sum |e|^2 + 2 sum over pairs of cos.
        twice_cos = (vectors.sum(axis=1) ** 2).sum(axis=1) - (vectors**2).sum(axis=(1, 2))
        items = keep.sum(axis=1)
        pairs_twice = items * (items - 1)
        enough = items >= 2
        result[start : start + len(keep)][enough] = 1 - twice_cos[enough] / pairs_twice[enough]
    return result


def coverage_at(predictions: Ints, num_items: int, k: int) -> float:
    """Share of the catalogue that stands in the first k of any user."""
    shown = first_k(predictions, k)
    return len(np.unique(shown[shown >= 0])) / num_items


def cold_recall_at(
    predictions: Ints, targets: Ragged, cold: Bools, k: int, *, denominator: Literal["cold", "all"] = "cold"
) -> PerUser:
    """[U]: HR@k of the cold targets; a user without one is NaN (``cold``) or 0 (``all``).

    Args:
        cold: [N] from ``cold_items``.
    """
    check_targets(predictions, targets)
    lists = first_k(predictions, k)
    found = np.asarray((hits(lists, targets) & cold[lists]).any(axis=1), np.float64)
    if denominator == "all":
        return found
    user = np.repeat(np.arange(len(targets)), targets.lengths)
    has_cold = np.bincount(user, weights=cold[targets.values], minlength=len(targets)) > 0
    return np.where(has_cold, found, np.nan)


def _entropy_nats(counts: NDArray[np.int64]) -> PerUser:
    """[R, C] histograms -> [R] entropies in nats; NaN for an empty one."""
    total = counts.sum(axis=1)
    share = counts / np.maximum(total, 1)[:, None]
    log_share = np.log(share, out=np.zeros(share.shape), where=share > 0)
    return np.asarray(np.where(total > 0, np.maximum(-(share * log_share).sum(axis=1), 0.0), np.nan))
