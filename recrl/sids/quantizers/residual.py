"""What every residual quantiser does: the nearest centroid, then the rest of the way at the next level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recrl.data.rows import chunks
from recrl.sids.quantizers import Arrays, Codes, Matrix, Quantized

CHUNK_ROWS = 65_536  # bounds the [rows, K] table of distances

FitLevel = Callable[[Matrix, int, int], tuple[Codes, Matrix]]
"""(residual [N, d], K, level) -> codes [N], centroids [K, d]"""


def squared_distances(points: Matrix, centroids: Matrix) -> Matrix:
    """[n, K] squared distances, less every point's own squared length: the same order within a row."""
    table: Matrix = points @ centroids.T
    table *= -2
    table += np.einsum("kd,kd->k", centroids, centroids)
    return table


def nearest(points: Matrix, centroids: Matrix) -> Codes:
    """[n] the nearest centroid; of equally near ones the lowest index."""
    codes = np.empty(len(points), np.int32)
    for rows in chunks(len(points), CHUNK_ROWS):
        codes[rows] = squared_distances(points[rows], centroids).argmin(axis=1)
    return codes


def encode(points: Matrix, codebooks: list[Matrix]) -> Codes:
    """[n, L] greedy residual codes, as new items get them."""
    residual = points.copy()
    codes = np.empty((len(points), len(codebooks)), np.int32)
    for level, centroids in enumerate(codebooks):
        codes[:, level] = nearest(residual, centroids)
        residual -= centroids[codes[:, level]]
    return codes


def decode(codes: Codes, codebooks: list[Matrix]) -> Matrix:
    """[n, e] the sum of the centroids."""
    total = np.zeros((len(codes), codebooks[0].shape[1]), np.float32)
    for level, book in enumerate(codebooks):
        total += book[codes[:, level]]
    return total


def codebooks_of(arrays: Arrays) -> list[Matrix]:
    """The codebooks, level by level."""
    return [arrays[f"codebook.{level}"] for level in range(sum(name.startswith("codebook.") for name in arrays))]


def quantize(points: Matrix, sizes: tuple[int, ...], fit_level: FitLevel) -> Quantized:
    """Fit level after level on what the levels before left over (papers.md C-1)."""
    residual = np.array(points, np.float32, order="C")
    columns, arrays = [], {}
    for level, size in enumerate(sizes):
        codes, centroids = fit_level(residual, min(size, len(points)), level)
        residual -= centroids[codes]
        columns.append(codes)
        arrays[f"codebook.{level}"] = centroids
    return Quantized(np.stack(columns, axis=1).astype(np.int32), points - residual, arrays, {})
