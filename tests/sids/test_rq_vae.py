from __future__ import annotations

import numpy as np
import pytest
import torch

from recrl.sids.quantizers import rq_vae
from recrl.sids.quantizers.residual import codebooks_of, encode

OPTIONS = rq_vae.RqVaeOptions(hidden=(32,), latent_dim=4, epochs=30, warm_up_epochs=5, batch_size=64, lr=3e-3)


def points(items: int = 200) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.asarray(
        4 * rng.standard_normal((5, 8))[rng.integers(5, size=items)] + rng.standard_normal((items, 8)), np.float32
    )


def test_loss_terms_and_gradients_by_hand():
    """h = 1, codes {0, 3} then {0.5}: residual 1 -> 0, then .5. Codebook terms 1 + .25, commitment beta times that."""
    hidden = torch.tensor([[1.0]], requires_grad=True)
    books = [torch.tensor([[0.0], [3.0]], requires_grad=True), torch.tensor([[0.5]], requires_grad=True)]
    quantised, loss = rq_vae.quantizer_loss(hidden, books, beta=0.25)
    assert quantised.item() == pytest.approx(0.5)
    assert loss.item() == pytest.approx(1.25 * 1.25)
    loss.backward()
    assert hidden.grad.item() == pytest.approx(0.25 * (2 * 1 + 2 * 0.5))
    assert books[0].grad.flatten().tolist() == pytest.approx([-2.0, 0.0])
    assert books[1].grad.item() == pytest.approx(-1.0)


def test_the_gradient_passes_straight_through():
    hidden = torch.tensor([[1.0, 2.0]], requires_grad=True)
    quantised, _ = rq_vae.quantizer_loss(hidden, [torch.zeros(1, 2)], beta=0.25)
    (quantised * torch.tensor([[3.0, -1.0]])).sum().backward()
    assert hidden.grad.tolist() == [[3.0, -1.0]]


def test_training_lowers_the_loss_and_keeps_most_of_the_variance():
    data = points()
    quantized = rq_vae.fit(data, (8, 8), OPTIONS, 0)
    assert quantized.notes["loss_last"] < quantized.notes["loss_first"]
    assert np.square(data - quantized.reconstruction).sum() < 0.6 * np.square(data - data.mean(axis=0)).sum()


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
    rq_vae.fit(points(50), (4,), OPTIONS.model_copy(update={"epochs": 1}), 0)
    assert torch.equal(torch.rand(3), expected)
