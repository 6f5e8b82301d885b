"""k-means by faiss from greedy k-means++ starts.

faiss' own k-means++ is not in every release that we support and draws one candidate a centroid, which measured hardly
better than random points. scikit-learn's is greedy but takes 3 times as long, since it computes in float64.
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from recrl.sids.quantizers import Matrix

START_POINTS_PER_CODE = 64  # bounds the time of a start, which grows with its points as an iteration of k-means does


def lloyd(
    points: Matrix, size: int, rng: np.random.Generator, *, n_init: int, max_iter: int, max_points_per_code: int
) -> Matrix:
    """[K, d] centroids, the best of ``n_init`` starts; ``size`` may not pass the number of points.

    Args:
        max_points_per_code: fitted on at most this times K points, drawn once for all starts.
    """
    points = np.ascontiguousarray(sample(points, size * max_points_per_code, rng))
    fits = [_fit(points, first_centroids(points, size, rng), max_iter) for _ in range(n_init)]
    return min(fits, key=lambda fit: fit[0])[1]


def first_centroids(points: Matrix, size: int, rng: np.random.Generator) -> Matrix:
    """[K, d] of the points, by greedy k-means++ (Arthur and Vassilvitskii 2007, section 5).

    Every centroid is the best of 2 + ln K candidates, drawn in proportion to their squared distance from the centroids
    so far.
    """
    points = sample(points, size * START_POINTS_PER_CODE, rng)
    candidates = 2 + int(np.log(size))
    square = np.einsum("nd,nd->n", points, points)
    chosen = [int(rng.integers(len(points)))]
    left = _from_each(points, square, np.array(chosen))[0]
    while len(chosen) < size:
        total = np.cumsum(left, dtype=np.float64)
        drawn = np.searchsorted(total, rng.random(candidates) * total[-1], side="right")
        drawn = np.minimum(drawn, len(points) - 1)
        left_with = np.minimum(_from_each(points, square, drawn), left)
        best = int(left_with.sum(axis=1, dtype=np.float64).argmin())
        left = left_with[best]
        chosen.append(int(drawn[best]))
    return points[chosen]


def sample(points: Matrix, limit: int, rng: np.random.Generator) -> Matrix:
    """At most ``limit`` of the points, in their order."""
    if len(points) <= limit:
        return points
    return points[np.sort(rng.choice(len(points), limit, replace=False))]


def _fit(points: Matrix, centroids: Matrix, max_iter: int) -> tuple[float, Matrix]:
    kmeans = faiss.Kmeans(
        points.shape[1],
        len(centroids),
        niter=max_iter,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),  # sampled already
    )
    error = kmeans.train(points, init_centroids=centroids)
    return float(error), np.array(kmeans.centroids, np.float32)


def _from_each(points: Matrix, square: Matrix, rows: NDArray[np.int64]) -> Matrix:
    """[len(rows), N] squared distances from some of the points to all; ``square`` [N] are the squared lengths."""
    distance: Matrix = points[rows] @ points.T
    distance *= -2
    distance += square
    distance += square[rows][:, None]
    return np.maximum(distance, 0, out=distance)
