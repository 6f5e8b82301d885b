"""Accuracy of ranked lists, one number a user.

Letters: U users, K positions of a list, N items, L levels of a SID.

A list is a row of ``predictions`` [U, K]: item indices, best first, -1 where a position holds nothing legal. Everything
compares item indices, never SID strings. Lists are read as they are (RecIF-Bench's ``first_k``): a duplicate keeps its
position, so it frees no place for the item after it, and it counts at its first position only. Means are left to the
caller; a NaN in a per-user array means that this user is not part of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.data.ragged import Ragged
from recrl.errors import DataError

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
PerUser = NDArray[np.float64]


def first_k(predictions: Ints, k: int) -> Ints:
    """[U, K] -> [U, k]. Raises ValueError where the lists are shorter than k."""
    if predictions.ndim != 2:
        raise ValueError(f"predictions have shape {predictions.shape}, not [users, positions]")
    if not 1 <= k <= predictions.shape[1]:
        raise ValueError(f"k = {k} is not within 1..{predictions.shape[1]}, the width of the lists")
    return predictions[:, :k]


def first_occurrence(predictions: Ints) -> Bools:
    """[U, K] -> [U, K], True where a legal item stands in its row for the first time."""
    order = np.argsort(predictions, axis=1, kind="stable")
    by_item = np.take_along_axis(predictions, order, axis=1)
    fresh = np.ones(predictions.shape, np.bool_)
    fresh[:, 1:] = by_item[:, 1:] != by_item[:, :-1]
    first = np.empty(predictions.shape, np.bool_)
    np.put_along_axis(first, order, fresh, axis=1)
    return first & (predictions >= 0)


def hits(predictions: Ints, targets: Ragged) -> Bools:
    """[U, K], True where an item of the user's target set stands in the list for the first time.

    Raises:
        ValueError: the two have different numbers of users, or a user has no target or a negative one.
    """
    check_targets(predictions, targets)
    return _member(predictions, targets) & first_occurrence(predictions)


def pass_at(predictions: Ints, targets: Ragged, k: int) -> PerUser:
    """[U]: 1 where any of the first k is a target. With one target a user this is HR@k and Recall@k."""
    return np.asarray(hits(first_k(predictions, k), targets).any(axis=1), np.float64)


def recall_at(predictions: Ints, targets: Ragged, k: int) -> PerUser:
    """[U]: |set(first k) & T| / |T|, T the user's targets as a set (RecIF-Bench)."""
    found = hits(first_k(predictions, k), targets).sum(axis=1)
    return np.asarray(found / target_set_sizes(targets))


def ndcg_at(predictions: Ints, targets: Ragged, k: int) -> PerUser:
    """[U]: 1 / log2(rank + 1) with one target, 0 where it is not among the first k; rank 3 gives .5.

    With a target set: the sum over its hits, divided by the best sum that k places and |T| targets allow.
    """
    gain = 1 / np.log2(np.arange(2, k + 2))
    found = hits(first_k(predictions, k), targets) @ gain
    return np.asarray(found / np.cumsum(gain)[np.minimum(target_set_sizes(targets), k) - 1])


def position1_pass_at(predictions: Ints, targets: Ragged, k: int) -> PerUser:
    """[U]: 1 where the user's first target (the item that really came next) is among the first k."""
    check_targets(predictions, targets)
    first = targets.values[targets.offsets[:-1], None]
    return np.asarray((first_k(predictions, k) == first).any(axis=1), np.float64)


def partial_hit(
    predictions: Ints, targets: Ragged, codes: Ints, k: int, level_scores: Sequence[float] = (1.0, 10.0, 100.0)
) -> PerUser:
    """[U]: mean over the first k of the credit for the longest SID prefix shared with any target.

    Args:
        codes: [N, L], the SID codes of every item.
        level_scores: L credits, for 1 .. L equal leading codes. 1, 10 and 100 as in OpenOneRec's
            benchmark (papers.md D-2, E-3).
    """
    check_targets(predictions, targets)
    if codes.ndim != 2 or len(level_scores) != codes.shape[1]:
        raise ValueError(f"{len(level_scores)} credits for codes of shape {codes.shape}: one a level is needed")
    lists = first_k(predictions, k)
    credit = np.zeros(lists.shape)
    prefix = np.zeros(len(codes), np.int64)
    for level, score in enumerate(level_scores):
        _, prefix = np.unique(np.column_stack((prefix, codes[:, level])), axis=0, return_inverse=True)
        shared = np.where(lists >= 0, prefix[lists], -1)
        credit[_member(shared, Ragged(prefix[targets.values].astype(np.int32), targets.offsets))] = score
    return np.asarray(credit.mean(axis=1))


def legal_ratio(predictions: Ints, k: int) -> PerUser:
    """[U]: share of the first k positions that hold a legal item."""
    return np.asarray((first_k(predictions, k) >= 0).mean(axis=1))


def auc(scores: Floats, labels: Ints) -> float:
    """Area under the ROC curve: the chance that a row of label 1 scores above one of label 0; a tie counts one half.

    Args:
        scores: [rows], for label prediction P(yes) / (P(yes) + P(no)).
        labels: [rows], 0 or 1.

    Raises:
        DataError: the labels are all equal.
        ValueError: a score is NaN, or a label is neither 0 nor 1.
    """
    if len(scores) != len(labels) or np.isnan(scores).any() or not np.isin(labels, (0, 1)).all():
        raise ValueError("AUC needs one finite score and one label, 0 or 1, a row")
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        raise DataError(
            f"label prediction has {positives} rows of label 1 and {negatives} of label 0",
            why="AUC compares the two kinds",
            fix="evaluate more rows",
        )
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2  # ranks from 1; equal scores share their mean
    rank_sum = mean_rank[place][labels == 1].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def check_targets(predictions: Ints, targets: Ragged) -> None:
    """One non-empty target set a user, of item indices."""
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} lists for the targets of {len(targets)} users")
    if (targets.lengths == 0).any():
        raise ValueError(f"user {int(np.argmin(targets.lengths))} has no target")
    if (targets.values < 0).any():
        raise ValueError("a target is negative: not an item index")


def target_set_sizes(targets: Ragged) -> NDArray[np.int64]:
    """[U]: distinct targets of every user."""
    user = np.repeat(np.arange(len(targets)), targets.lengths)
    pairs = np.unique(np.column_stack((user, targets.values)), axis=0)
    return np.bincount(pairs[:, 0], minlength=len(targets))


def _member(values: Ints, sets: Ragged) -> Bools:
    """[U, K], True where a value, if not negative, is in its row's set. One sorted search over (row, value) pairs."""
    stride = int(max(values.max(initial=0), sets.values.max(initial=0))) + 1
    rows = np.arange(len(values), dtype=np.int64)
    wanted = np.repeat(rows, sets.lengths) * stride + sets.values
    return (values >= 0) & np.isin(rows[:, None] * stride + values, wanted)
