"""Numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from recrl.sids.codes import with_suffixes
from recrl.sids.statistics import perplexity, purity, statistics

CODES = np.array([[0, 0], [0, 0], [0, 1], [2, 1]], np.int32)


def test_figures_of_four_items():
    figures = statistics(with_suffixes(CODES, (3, 2)), ["toy", "toy", "book", ""])
    assert [level["used"] for level in figures["levels"]] == [2, 2]
    assert [level["size"] for level in figures["levels"]] == [3, 2]
    assert figures["levels"][1]["perplexity"] == pytest.approx(2.0)
    assert figures["unique_paths"] == 3
    assert figures["shared_items"] == 2
    assert figures["collision_rate"] == 0.25
    assert figures["collision_rate_with_suffix"] == 0
    assert figures["largest_cluster"] == 2
    assert figures["reconstruction_error"] is None


def test_perplexity_counts_codes_by_how_equally_they_are_used():
    assert perplexity(np.array([5, 5, 5, 5, 0])) == pytest.approx(4.0)
    assert perplexity(np.array([9, 0])) == pytest.approx(1.0)
    assert perplexity(np.array([3, 1])) == pytest.approx(4 / 3**0.75)


def test_purity_is_the_share_of_each_prefix_most_frequent_category():
    assert purity(CODES, ["toy", "toy", "book", "book"]) == [0.75, 1.0]
    assert purity(CODES, ["toy", "", "book", "book"]) == [pytest.approx(2 / 3), 1.0]
    assert purity(CODES, [""] * 4) is None


def test_reconstruction_error_is_the_share_of_variance_that_is_lost():
    embedding = np.array([[0.0], [2.0], [4.0], [6.0]], np.float32)  # variance sum 9 + 1 + 1 + 9 = 20
    guess = np.array([[1.0], [1.0], [5.0], [5.0]], np.float32)  # loses 4
    index = with_suffixes(CODES, (3, 2))
    assert statistics(index, [""] * 4, embedding, guess)["reconstruction_error"] == pytest.approx(0.2)
    equal = np.ones((4, 1), np.float32)
    assert statistics(index, [""] * 4, equal, equal)["reconstruction_error"] == 0
