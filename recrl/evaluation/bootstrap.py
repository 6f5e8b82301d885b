"""Bootstrap intervals over users (percentile method; Efron 1979).

Letters: U users, M metrics, R resamples. A resample draws U users with replacement; all metrics share the same draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recrl.evaluation.metrics import Floats

DRAWS_PER_CHUNK = 1 << 22
"""Users drawn at a time; bounds the memory to about 100 MB whatever U is."""


@dataclass(frozen=True)
class Interval:
    """A mean over users and the percentile interval around it."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def bootstrap_means(
    values: Floats, *, seed: int, num_resamples: int = 1000, level: float = 0.95
) -> list[Interval | None]:
    """The mean of every metric over users, with its interval.

    Args:
        values: [U, M], one number a user; NaN where a user is not part of that metric's mean.

    Returns:
        M intervals; None for a metric that no user is part of.

    Raises:
        ValueError: ``values`` is not [U, M], or an argument is out of range.
    """
    if values.ndim != 2 or num_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"values of shape {values.shape}, {num_resamples} resamples, level {level}")
    users, num_metrics = values.shape
    if users == 0:
        return [None] * num_metrics
    centre, means = resampled_means(values, seed=seed, num_resamples=num_resamples)
    tail = (1 - level) / 2
    found: list[Interval | None] = []
    for metric in range(num_metrics):
        drawn = means[:, metric]
        drawn = drawn[~np.isnan(drawn)]  # a resample may hold none of a rare metric's users
        if not len(drawn):
            found.append(None)
            continue
        low, high = np.quantile(drawn, (tail, 1 - tail))
        found.append(Interval(float(centre[metric]), float(low), float(high)))
    return found


def resampled_means(
    values: Floats, *, seed: int, num_resamples: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means over the users, and over the users of every resample.

    Args:
        values: [U, M], one number a user; NaN where a user is not part of that metric's mean.

    Returns:
        [M] and [R, M]; NaN where no user counts.
    """
    counted = ~np.isnan(values)
    filled = np.where(counted, values, 0.0).astype(np.float64)
    parts = np.concatenate((filled, counted), axis=1)  # [U, 2M]: sums and the numbers of users behind them
    return _ratio(parts.sum(axis=0, keepdims=True))[0], _ratio(_resampled_sums(parts, seed, num_resamples))


def paired_difference(
    first: Floats, second: Floats, *, seed: int, num_resamples: int = 1000, level: float = 0.95
) -> Interval | None:
    """Mean of ``second - first`` over the same users, [U] each; None where no user counts in both.

    Pairing removes what the two have in common, so the interval is narrower than the two apart suggest.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"shapes {first.shape} and {second.shape}: both must hold the same users")
    return bootstrap_means((second - first)[:, None], seed=seed, num_resamples=num_resamples, level=level)[0]


def _resampled_sums(parts: NDArray[np.float64], seed: int, num_resamples: int) -> NDArray[np.float64]:
    """[U, P] -> [R, P], the sums over each resample's users."""
    users = len(parts)
    generator = np.random.default_rng(seed)
    sums = np.empty((num_resamples, parts.shape[1]))
    rows_per_chunk = max(1, DRAWS_PER_CHUNK // users)
    for start in range(0, num_resamples, rows_per_chunk):
        rows = min(rows_per_chunk, num_resamples - start)
        drawn = generator.integers(users, size=(rows, users))
        drawn += np.arange(rows)[:, None] * users
        weights = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)
        sums[start : start + rows] = weights @ parts
    return sums


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """[R, 2M] sums and numbers of users -> [R, M] means, NaN where no user counts."""
    total, users = np.split(sums, 2, axis=1)
    return np.where(users > 0, total / np.maximum(users, 1), np.nan)
