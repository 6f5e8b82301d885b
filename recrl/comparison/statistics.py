"""Means over the seeds and users of one recipe, with intervals and tests that account for both.

Every seed is measured on the same users, so the two are crossed. A resample draws users with replacement, the same ones
for every seed, and seeds with replacement (pigeonhole bootstrap; Owen 2007, arXiv:0712.1111). The mean over S redrawn
seeds has (S - 1) / S of the variance that it should have, so its distance to the mean over all seeds is stretched by
sqrt(S / (S - 1)). One seed says nothing about seeds: its interval is over users alone.

Letters: U users, S seeds, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from recrl.evaluation.bootstrap import Interval, resampled_means
from recrl.evaluation.metrics import Floats

NUM_RESAMPLES = 10_000
"""A p-value can't be below 2 / (NUM_RESAMPLES + 1)."""
Key = TypeVar("Key", bound=Hashable)
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and users, its 95 % interval, and the two-sided p-value of "the mean is 0"."""

    interval: Interval
    p_value: float


def estimates(
    groups: Mapping[Key, Sequence[Floats]], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> dict[Key, Estimate]:
    """Estimates of several quantities on the same resamples of users.

    Args:
        groups: name -> S arrays of [U], one a seed; the users are the same everywhere. NaN: not part of the mean.

    Returns:
        One estimate a name.

    Raises:
        ValueError: a quantity has no seed, or one of its seeds no user that counts.
    """
    columns = [values for seeds in groups.values() for values in seeds]
    centre, drawn = resampled_means(np.column_stack(columns), seed=seed, num_resamples=num_resamples)
    found: dict[Key, Estimate] = {}
    first = 0
    for number, (name, seeds) in enumerate(groups.items()):
        part = slice(first, first + len(seeds))
        first += len(seeds)
        if not len(seeds) or np.isnan(centre[part]).any():
            raise ValueError(f"{name}: every one of its {len(seeds)} seeds needs a user that counts")
        means = over_seeds(drawn[:, part], np.random.default_rng((seed, number)))
        found[name] = Estimate(_interval(float(centre[part].mean()), means), p_value(means))
    return found


def over_seeds(means: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """[R, S] means over resampled users, a column a seed -> [R] means over resampled seeds too."""
    resamples, seeds = means.shape
    every: NDArray[np.float64] = means.mean(1)
    if seeds == 1:
        return every
    drawn = np.take_along_axis(means, rng.integers(seeds, size=(resamples, seeds)), 1).mean(1)
    return np.asarray(every + math.sqrt(seeds / (seeds - 1)) * (drawn - every))


def p_value(means: NDArray[np.float64]) -> float:
    """Two-sided bootstrap p-value of "the mean is 0": below .05 where the 95 % interval leaves 0 out.

    Args:
        means: [R] of differences; NaN where a resample holds no user that counts.
    """
    drawn = means[~np.isnan(means)]
    below, above = (drawn <= 0).sum(), (drawn >= 0).sum()
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + len(drawn))))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for how many tests there are (Holm 1979): each can be read as if it were the only one."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _interval(value: float, means: NDArray[np.float64]) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(means, (tail, 1 - tail))
    return Interval(value, float(low), float(high))
