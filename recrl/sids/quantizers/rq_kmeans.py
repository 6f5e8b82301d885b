"""Residual k-means on faiss, without balance: what OneRec's tokenizer does (3 x 8192 there)."""

from __future__ import annotations

from functools import partial

import numpy as np
from pydantic import Field

from recrl.parts import Options
from recrl.sids.quantizers import Codes, Matrix, Quantized, Quantizer
from recrl.sids.quantizers.kmeans import lloyd
from recrl.sids.quantizers.residual import nearest, quantize


class RqKmeansOptions(Options):
    n_init: int = Field(1, ge=1)
    """Starts; the one with the smallest error is kept."""
    max_iter: int = Field(25, ge=1)
    train_points_per_code: int = Field(256, ge=1)
    """A level is fitted on at most this times K points, drawn under the seed; all points are then encoded."""


def fit(points: Matrix, sizes: tuple[int, ...], options: RqKmeansOptions, seed: int) -> Quantized:
    """Every item takes its nearest centroid; of equally near ones the lowest index."""
    return quantize(points, sizes, partial(_fit_level, options=options, seed=seed))


def _fit_level(residual: Matrix, size: int, level: int, *, options: RqKmeansOptions, seed: int) -> tuple[Codes, Matrix]:
    centroids = lloyd(
        residual,
        size,
        np.random.default_rng([seed, level]),
        n_init=options.n_init,
        max_iter=options.max_iter,
        max_points_per_code=options.train_points_per_code,
    )
    return nearest(residual, centroids), centroids


RQ_KMEANS = Quantizer(RqKmeansOptions, fit, "arXiv:2510.24431")
