"""The best of a row of scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top_k(scores: NDArray[np.floating], k: int) -> NDArray[np.int32]:
    """The k best items of every row, best first; among equal scores the lower item index wins.

    An item that must not be recommended has the score -inf: it is never taken, and a row with too few others ends
    in -1.

    Args:
        scores: [U, N].

    Returns:
        [U, k] item indices.

    Raises:
        ValueError: k is not within 1..N, or a score is NaN.
    """
    users, items = scores.shape
    if not 1 <= k <= items:
        raise ValueError(f"k = {k} is not within 1..{items}, the number of items")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: it has no place in an order")
    if users == 0:
        return np.zeros((0, k), np.int32)
    kth = np.partition(scores, items - k, axis=1)[:, items - k, None]
    above, tied = scores > kth, scores == kth
    places_left = k - above.sum(axis=1, keepdims=True)
    crowded = np.flatnonzero(tied.sum(axis=1, keepdims=True) > places_left)  # more ties at the edge than places
    tied[crowded] &= np.cumsum(tied[crowded], axis=1, dtype=np.int32) <= places_left[crowded]
    # Ascending item index, so that a stable sort settles ties.
    chosen = np.flatnonzero(above | tied).reshape(users, k) % items
    value = np.take_along_axis(scores, chosen, axis=1)
    order = np.argsort(-value, axis=1, kind="stable")
    best = np.take_along_axis(chosen, order, axis=1)
    return np.where(np.take_along_axis(value, order, axis=1) == -np.inf, -1, best).astype(np.int32)
