"""Constrained balanced residual k-means (papers.md C-1): every code of a level is used by about as many items.

Lloyd's algorithm in which the assignment step is the cheapest one whose cluster sizes lie between ``max(1, N//K - 1)``
and ``N//K + 1``. The assignment is exact for any N (``transport.py``); above ``exact_limit`` items the centroids are
fitted on a sample and refined on all items for ``refine_iter`` rounds.

Items of the catalogue keep the cluster that balance gave them, which may not be the nearest; new items take the
nearest.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recrl.parts import Options
from recrl.sids.quantizers import Codes, Matrix, Quantized, Quantizer
from recrl.sids.quantizers.kmeans import lloyd, sample
from recrl.sids.quantizers.residual import quantize, squared_distances
from recrl.sids.quantizers.transport import Costs, Prices, assign

HELD_COSTS = 2**25  # entries of the [N, K] table that are held rather than computed again: 128 MiB


class BalancedOptions(Options):
    n_init: int = Field(1, ge=1)
    """Starts; the one with the smallest error is kept."""
    max_iter: int = Field(100, ge=1)
    tol: float = Field(1e-7, ge=0)
    """Stop when the squared shift of all centroids is below this times the variance of the points."""
    exact_limit: int = Field(50_000, ge=1)
    """Items up to which the centroids are fitted on all of them."""
    sample_points_per_code: int = Field(64, ge=1)
    """Above ``exact_limit``: the centroids are fitted on this times K items."""
    refine_iter: int = Field(2, ge=0)
    """Rounds on all items after a fit on a sample."""
    start_iter: int = Field(10, ge=1)
    """Rounds of plain k-means before balance is asked for."""
    price_rounds: int = Field(100, ge=0)
    """Rounds of the price search before the exact repair; a matter of speed alone."""


def fit(points: Matrix, sizes: tuple[int, ...], options: BalancedOptions, seed: int) -> Quantized:
    """[N, L] codes; at every level each code has ``max(1, N//K - 1)`` to ``N//K + 1`` items."""
    return quantize(points, sizes, partial(_fit_level, options=options, seed=seed))


def bounds(rows: int, size: int) -> tuple[int, int]:
    """Fewest and most members of a cluster."""
    return max(1, rows // size - 1), rows // size + 1


def _fit_level(residual: Matrix, size: int, level: int, *, options: BalancedOptions, seed: int) -> tuple[Codes, Matrix]:
    best: tuple[float, Codes, Matrix] | None = None
    for start in range(options.n_init):
        rng = np.random.default_rng([seed, level, start])
        codes, centroids = _one_start(residual, size, options, rng)
        error = float(np.square(residual - centroids[codes]).sum(dtype=np.float64))
        if best is None or error < best[0]:
            best = (error, codes, centroids)
    assert best is not None
    return best[1], best[2]


def _one_start(residual: Matrix, size: int, options: BalancedOptions, rng: np.random.Generator) -> tuple[Codes, Matrix]:
    wanted = size * options.sample_points_per_code
    sampled = len(residual) > max(options.exact_limit, wanted)
    some = sample(residual, wanted, rng) if sampled else residual
    centroids = lloyd(
        some,
        size,
        rng,
        n_init=1,
        max_iter=options.start_iter,
        max_points_per_code=len(some),
    )
    prices = np.zeros(size)
    codes, centroids, prices = _balanced_lloyd(some, centroids, prices, options, options.max_iter)
    if sampled:
        codes, centroids, _ = _balanced_lloyd(residual, centroids, prices, options, 1 + options.refine_iter)
    return codes, centroids


def _balanced_lloyd(
    points: Matrix, centroids: Matrix, prices: Prices, options: BalancedOptions, max_iter: int
) -> tuple[Codes, Matrix, Prices]:
    low, high = bounds(len(points), len(centroids))
    enough = options.tol * float(points.var(axis=0, dtype=np.float64).sum())
    codes = np.full(len(points), -1, np.int32)
    for _ in range(max_iter):
        before = codes
        costs = _costs(points, centroids)
        codes, prices = assign(costs, len(points), low, high, prices, options.price_rounds)
        moved = cluster_means(points, codes, len(centroids))
        shift = float(np.square(moved - centroids).sum(dtype=np.float64))
        centroids = moved
        if shift <= enough or np.array_equal(before, codes):
            break
    return codes, centroids, prices


def _costs(points: Matrix, centroids: Matrix) -> Costs:
    if len(points) * len(centroids) <= HELD_COSTS:
        table = squared_distances(points, centroids)
        return lambda rows: table[rows]
    return lambda rows: squared_distances(points[rows], centroids)


def cluster_means(points: Matrix, codes: NDArray[np.int32], size: int) -> Matrix:
    """[K, d] means of clusters that all have a member."""
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(size))
    sums = np.add.reduceat(points[order].astype(np.float64), starts, axis=0)
    return np.asarray(sums / np.bincount(codes, minlength=size)[:, None], np.float32)


BALANCED = Quantizer(BalancedOptions, fit, "papers.md C-1; k-means-constrained")
