from __future__ import annotations

import numpy as np
import pytest

from recrl.comparison.statistics import estimates, holm, over_seeds, p_value

USERS = 2000


def hits(share: float, users: int = USERS) -> np.ndarray:
    values = np.zeros(users)
    values[: round(share * users)] = 1
    return values


def test_seeds_that_agree_leave_the_interval_of_the_users():
    found = estimates({"one": [hits(0.1)] * 3})["one"].interval
    half_width = 1.96 * np.sqrt(0.1 * 0.9 / USERS)
    assert found.value == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1 - half_width, abs=0.0015)
    assert found.high == pytest.approx(0.1 + half_width, abs=0.0015)


def test_users_that_agree_leave_the_variance_of_the_mean_over_seeds():
    levels = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    means = np.tile(levels, (40_000, 1))  # whatever users are drawn
    drawn = over_seeds(means, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(2.0, abs=0.02)
    assert drawn.var() == pytest.approx(levels.var(ddof=1) / len(levels), rel=0.03)  # 2.5 / 5, and not 2 / 5


def test_the_interval_of_five_seeds_covers_what_that_of_one_does_not():
    """60 experiments in which seeds shift the mean by twice its standard error over users; the true mean is 0."""
    rng = np.random.default_rng(3)
    covered = {1: 0, 5: 0}
    for seeds in covered:
        for number in range(60):
            users = rng.normal(0, 1, 100)
            runs = [users + shift for shift in rng.normal(0, 0.2, seeds)]
            interval = estimates({"one": runs}, seed=number, num_resamples=300)["one"].interval
            covered[seeds] += not interval.excludes_zero
    assert covered[1] <= 45  # 37 by the normal law: over users alone 1.96 x .1 of a standard deviation of .22
    assert covered[5] >= 52  # 57


def test_a_paired_difference_is_found_where_the_means_overlap():
    rng = np.random.default_rng(0)
    start = rng.normal(0, 10, USERS)
    runs = [start + 0.1 + rng.normal(0, 0.5, USERS) for _ in range(3)]
    found = estimates({"means": runs, "difference": [run - start for run in runs]})
    assert not found["means"].interval.excludes_zero
    assert found["difference"].interval.excludes_zero
    assert found["difference"].p_value < 0.001
    assert found["means"].p_value > 0.05


def test_equal_runs_differ_by_nothing():
    found = estimates({"difference": [np.zeros(50), np.zeros(50)]})["difference"]
    assert (found.interval.value, found.interval.low, found.interval.high) == (0, 0, 0)
    assert found.p_value == 1.0


def test_users_without_a_number_are_not_part_of_the_mean():
    found = estimates({"one": [np.array([1.0, np.nan, 3.0])]}, num_resamples=200)["one"]
    assert found.interval.value == 2.0
    assert (found.interval.low, found.interval.high) == (1.0, 3.0)


def test_a_quantity_of_nobody_is_refused():
    with pytest.raises(ValueError, match="none: every one of its 1 seeds"):
        estimates({"none": [np.full(4, np.nan)]})


def test_p_values_count_the_resamples_on_the_other_side():
    means = np.concatenate((np.full(990, 1.0), np.full(9, -1.0)))
    assert p_value(means) == pytest.approx(2 * 10 / 1000)
    assert p_value(-means) == pytest.approx(2 * 10 / 1000)
    assert p_value(np.full(999, 1.0)) == pytest.approx(2 / 1000)


def test_holm_agrees_with_its_definition():
    # .01 x 4, .02 x 3 = .06 lifts .021 x 2 = .042, and .4 x 1
    found = holm({"a": 0.4, "b": 0.01, "c": 0.021, "d": 0.02})
    assert found == pytest.approx({"a": 0.4, "b": 0.04, "c": 0.06, "d": 0.06})
    assert list(found) == ["a", "b", "c", "d"]
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
