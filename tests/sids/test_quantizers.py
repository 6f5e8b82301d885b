from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recrl.parts import Choice
from recrl.sids.quantizers import QUANTIZERS, balanced, resolve_quantizer, rq_kmeans
from recrl.sids.quantizers.residual import codebooks_of, decode, encode, nearest

LEARNED = [kind for kind in QUANTIZERS if kind != "given"]
QUICK = {"rq-vae": {"steps": 12, "hidden": (16,), "latent_dim": 4, "batch_size": 32}}


def run(kind: str, points: np.ndarray, sizes: tuple[int, ...], seed: int = 0, **options):
    quantizer, chosen = resolve_quantizer(Choice(kind=kind, **(QUICK.get(kind, {}) | options)), where="sid.quantizer")
    return quantizer.run(np.asarray(points, np.float32), sizes, chosen, seed)


def blobs(items: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 5 * rng.standard_normal((7, dim))
    return np.asarray(centres[rng.integers(7, size=items)] + rng.standard_normal((items, dim)), np.float32)


def test_worked_example_of_methods_c1():
    """x = 7 among {0, 4, 8} -> 8, residual -1, which is as far from -2 as from 0: the lower index wins."""
    books = [np.array([[0], [4], [8]], np.float32), np.array([[-2], [0], [2]], np.float32)]
    codes = encode(np.array([[7.0]], np.float32), books)
    assert codes.tolist() == [[2, 0]]
    assert decode(codes, books).tolist() == [[6.0]]


def test_of_equally_near_centroids_the_lowest_index_wins():
    centroids = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    assert nearest(np.zeros((5, 2), np.float32), centroids).tolist() == [0] * 5
    assert nearest(np.array([[-1, -1]], np.float32), centroids).tolist() == [2]


@pytest.mark.parametrize("kind", LEARNED)
def test_the_same_seed_gives_the_same_codes(kind):
    points = blobs(150)
    first, again = (run(kind, points, (8, 8), seed=3) for _ in range(2))
    assert np.array_equal(first.codes, again.codes)
    assert all(np.array_equal(first.arrays[name], again.arrays[name]) for name in first.arrays)


@pytest.mark.parametrize("kind", LEARNED)
def test_fewer_items_than_codes_leave_as_many_codes_as_items(kind):
    quantized = run(kind, blobs(5), (256, 256))
    assert [len(book) for book in codebooks_of(quantized.arrays)] == [5, 5]
    assert quantized.codes.max() < 5
    assert sorted(quantized.codes[:, 0]) == [0, 1, 2, 3, 4] or kind == "rq-vae"


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("value", [0.0, 2.5], ids=["zeros", "constant"])
def test_equal_vectors_are_quantised_without_error(kind, value):
    points = np.full((40, 4), value, np.float32)
    quantized = run(kind, points, (8, 8))
    assert quantized.reconstruction == pytest.approx(points, abs=1e-2)


@pytest.mark.parametrize("kind", ["rq-kmeans", "balanced"])
def test_reconstruction_is_the_sum_of_the_centroids(kind):
    points = blobs(120)
    quantized = run(kind, points, (6, 6, 6))
    assert quantized.reconstruction == pytest.approx(decode(quantized.codes, codebooks_of(quantized.arrays)), abs=1e-4)
    one_level = run(kind, points, (6,))
    assert np.square(points - quantized.reconstruction).sum() < np.square(points - one_level.reconstruction).sum()


def test_rq_kmeans_gives_every_item_its_nearest_centroid():
    points = blobs(200)
    quantized = run("rq-kmeans", points, (8, 8))
    assert np.array_equal(quantized.codes, encode(points, codebooks_of(quantized.arrays)))


@settings(max_examples=25, deadline=None)
@given(items=st.integers(1, 70), size=st.integers(1, 12), limit=st.sampled_from([16, 50_000]), seed=st.integers(0, 99))
def test_balanced_levels_stay_within_the_bounds_of_methods_c1(items, size, limit, seed):
    quantized = run(
        "balanced", blobs(items, seed=seed), (size, size), seed=seed, exact_limit=limit, sample_points_per_code=2
    )
    codes = min(size, items)
    for column in quantized.codes.T:
        counts = np.bincount(column, minlength=codes)
        assert counts.min() >= max(1, items // codes - 1)
        assert counts.max() <= items // codes + 1


def test_balance_costs_no_more_than_k_means_constrained():
    from k_means_constrained import KMeansConstrained

    points = blobs(160, seed=4)
    low, high = balanced.bounds(160, 8)
    peer = KMeansConstrained(8, size_min=low, size_max=high, n_init=3, max_iter=100, tol=1e-7, random_state=0)
    peer.fit(points)
    ours = run("balanced", points, (8,), n_init=3)
    assert np.square(points - ours.reconstruction).sum() <= peer.inertia_ * 1.02


def test_balanced_centroids_are_the_means_of_their_items():
    points = blobs(100)
    quantized = run("balanced", points, (8,))
    means = [points[quantized.codes[:, 0] == code].mean(axis=0) for code in range(8)]
    assert codebooks_of(quantized.arrays)[0] == pytest.approx(np.stack(means), abs=1e-5)


def test_more_starts_are_never_worse():
    points = blobs(150, seed=2)
    one, four = (run("balanced", points, (9,), n_init=starts) for starts in (1, 4))
    assert np.square(points - four.reconstruction).sum() <= np.square(points - one.reconstruction).sum()


def test_costs_that_are_not_held_give_the_same_codes(monkeypatch):
    points = blobs(150)
    held = run("balanced", points, (8, 8))
    monkeypatch.setattr(balanced, "HELD_COSTS", 0)
    monkeypatch.setattr("recrl.sids.quantizers.residual.CHUNK_ROWS", 40)
    assert np.array_equal(run("balanced", points, (8, 8)).codes, held.codes)


def test_training_on_a_sample_still_encodes_every_item():
    options = rq_kmeans.RqKmeansOptions(train_points_per_code=2, n_init=1)
    quantized = rq_kmeans.fit(blobs(300), (8,), options, 0)
    assert len(quantized.codes) == 300
