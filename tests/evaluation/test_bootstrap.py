from __future__ import annotations

import numpy as np
import pytest

from recrl.evaluation import bootstrap
from recrl.evaluation.bootstrap import Interval, bootstrap_means, paired_difference


def test_the_interval_of_a_share_is_near_the_normal_one():
    hits = np.zeros((4000, 1))
    hits[:400] = 1
    (found,) = bootstrap_means(hits, seed=0, num_resamples=2000)
    half_width = 1.96 * np.sqrt(0.1 * 0.9 / 4000)
    assert found.value == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1 - half_width, abs=0.001)
    assert found.high == pytest.approx(0.1 + half_width, abs=0.001)


def test_the_same_seed_gives_the_same_interval_and_another_does_not():
    values = np.random.default_rng(0).random((50, 2))
    assert bootstrap_means(values, seed=3) == bootstrap_means(values, seed=3)
    assert bootstrap_means(values, seed=3) != bootstrap_means(values, seed=4)


def test_the_size_of_a_chunk_does_not_matter(monkeypatch):
    values = np.random.default_rng(0).random((50, 2))
    whole = bootstrap_means(values, seed=3, num_resamples=101)
    monkeypatch.setattr(bootstrap, "DRAWS_PER_CHUNK", 7 * 50)
    assert bootstrap_means(values, seed=3, num_resamples=101) == whole


def test_users_without_a_number_are_not_part_of_the_mean():
    values = np.array([[1.0, np.nan], [3.0, 7.0], [np.nan, np.nan]])
    first, second = bootstrap_means(values, seed=0, num_resamples=200)
    assert first.value == 2.0
    assert second == Interval(7.0, 7.0, 7.0)  # resamples without its one user are left out


def test_a_metric_of_nobody_has_no_interval():
    assert bootstrap_means(np.full((5, 1), np.nan), seed=0) == [None]
    assert bootstrap_means(np.zeros((0, 2)), seed=0) == [None, None]


def test_pairing_finds_a_difference_that_hides_between_users():
    generator = np.random.default_rng(0)
    first = generator.normal(0, 10, 400)
    second = first + 0.1 + generator.normal(0, 0.1, 400)
    found = paired_difference(first, second, seed=0)
    assert found.excludes_zero
    assert found.value == pytest.approx((second - first).mean())
    apart = bootstrap_means(np.column_stack((first, second)), seed=0)
    assert apart[0].high > apart[1].low  # each by itself the intervals overlap


def test_equal_results_do_not_differ():
    values = np.arange(10.0)
    assert paired_difference(values, values, seed=0) == Interval(0.0, 0.0, 0.0)
    assert not Interval(0.0, 0.0, 0.0).excludes_zero


def test_a_pair_needs_a_number_on_both_sides():
    first, second = np.array([1.0, np.nan, 4.0]), np.array([2.0, 5.0, np.nan])
    assert paired_difference(first, second, seed=0) == Interval(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="same users"):
        paired_difference(first, second[:2], seed=0)


@pytest.mark.parametrize("change", [{"num_resamples": 0}, {"level": 1.0}], ids=["no-resamples", "level"])
def test_arguments_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_means(np.zeros((2, 1)), seed=0, **change)
