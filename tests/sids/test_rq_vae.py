from __future__ import annotations

import numpy as np
import pytest
import torch

from recrl.sids.quantizers import rq_kmeans, rq_vae
from recrl.sids.quantizers.residual import codebooks_of, encode

OPTIONS = rq_vae.RqVaeOptions(hidden=(32,), latent_dim=4, steps=100, batch_size=64, lr=3e-3)


def points(items: int = 200) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.asarray(
        4 * rng.standard_normal((5, 8))[rng.integers(5, size=items)] + rng.standard_normal((items, 8)), np.float32
    )


def lost(data: np.ndarray, reconstruction: np.ndarray) -> float:
    return float(np.square(data - reconstruction).sum() / np.square(data - data.mean(axis=0)).sum())


def test_training_lowers_the_loss_and_what_is_lost():
    data = points()
    one, many = (rq_vae.fit(data, (8, 8), OPTIONS.model_copy(update={"steps": steps}), 0) for steps in (1, 300))
    assert many.notes["loss_last"] < many.notes["loss_first"]
    assert lost(data, many.reconstruction) < 0.95 * lost(data, one.reconstruction)


def test_200_steps_lose_at_most_a_twentieth_of_the_variance_more_than_rq_kmeans():
    """800 items in 60 dims of falling variance, which 128 dims of the inside can hold."""
    rng = np.random.default_rng(0)
    data = np.asarray(rng.standard_normal((800, 60)) / np.sqrt(np.arange(1, 61)), np.float32)
    options = rq_vae.RqVaeOptions(steps=200)
    vae = rq_vae.fit(data, (64, 64, 64), options, 0)
    means = rq_kmeans.fit(data, (64, 64, 64), rq_kmeans.RqKmeansOptions(), 0)
    assert lost(data, vae.reconstruction) < lost(data, means.reconstruction) + 0.05


def test_latent_is_the_trained_encoder_and_new_items_take_the_nearest_codes():
    data = points()
    quantized = rq_vae.fit(data, (8, 8), OPTIONS.model_copy(update={"sinkhorn_rounds": 0}), 0)
    found = encode(rq_vae.latent(data, quantized.arrays), codebooks_of(quantized.arrays))
    assert np.array_equal(found, quantized.codes)


def test_sinkhorn_separates_equal_paths_on_the_last_level_alone():
    data = points()
    together, apart = (
        rq_vae.fit(data, (4, 32), OPTIONS.model_copy(update={"sinkhorn_rounds": rounds}), 0) for rounds in (0, 20)
    )
    assert np.array_equal(together.codes[:, 0], apart.codes[:, 0])
    assert len(np.unique(apart.codes, axis=0)) > len(np.unique(together.codes, axis=0))
    assert apart.notes["colliding_items_after_sinkhorn"] < apart.notes["colliding_items_before_sinkhorn"]


def test_sinkhorn_spreads_items_that_all_want_one_code():
    distance = np.array([[0.0, 1.0, 2.0], [0.0, 1.1, 2.0], [0.0, 1.2, 1.9]])
    plan = rq_vae.sinkhorn(distance, 0.003)
    assert plan.sum(axis=1) == pytest.approx(np.full(3, 1 / 3))
    assert plan.argmax(axis=1).tolist() == [1, 0, 2]  # 1.0 + 0 + 1.9; the next cheapest is 3.0


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    rq_vae.fit(points(50), (4,), OPTIONS.model_copy(update={"steps": 1}), 0)
    assert torch.equal(torch.rand(3), expected)
