from __future__ import annotations

import numpy as np

from recrl.sids.quantizers import kmeans
from recrl.sids.quantizers.residual import nearest


def islands() -> np.ndarray:
    """One cluster of 2,000 points and 30 of 10, far apart."""
    rng = np.random.default_rng(0)
    centres = np.repeat(100 * rng.standard_normal((31, 4)), [2000] + [10] * 30, axis=0)
    return np.asarray(centres + rng.standard_normal(centres.shape), np.float32)


def test_every_far_cluster_gets_a_first_centroid_however_small_it_is():
    data = islands()
    for seed in range(5):
        centroids = kmeans.first_centroids(data, 31, np.random.default_rng(seed))
        error = np.square(data - centroids[nearest(data, centroids)]).sum() / len(data)
        assert error < 10  # 4 to 8 around a point of one's own cluster; thousands where a cluster has none


def test_k_means_finds_clusters_that_random_starts_miss():
    data = islands()
    centroids = kmeans.lloyd(data, 31, np.random.default_rng(0), n_init=1, max_iter=10, max_points_per_code=256)
    assert np.square(data - centroids[nearest(data, centroids)]).sum() / len(data) < 4.2  # 4 = the clusters' variance


def test_starts_on_equal_points_are_those_points():
    data = np.full((20, 3), 2.5, np.float32)
    assert (kmeans.first_centroids(data, 5, np.random.default_rng(0)) == 2.5).all()


def test_a_sample_keeps_the_order_and_repeats_nothing():
    data = np.arange(100, dtype=np.float32)[:, None]
    some = kmeans.sample(data, 30, np.random.default_rng(0))[:, 0]
    assert len(some) == 30
    assert (np.diff(some) > 0).all()
    assert kmeans.sample(data, 100, np.random.default_rng(0)) is data
