"""Numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import sparse

from recrl.data.dataset import Catalog, Sequences
from recrl.data.ragged import Ragged
from recrl.errors import DataError
from recrl.sids.encoders.cooccurrence import CooccurrenceOptions, count_pairs, fit, positive_information


def sequences(rows: list[list[int]], first_target: list[int] | None = None) -> Sequences:
    first = np.array(first_target or [1] * len(rows), np.int32)
    return Sequences(np.arange(len(rows), dtype=np.int32), Ragged.from_lists(rows), first)


def items(count: int) -> Catalog:
    return Catalog([str(item) for item in range(count)], *([""] * count for _ in range(4)))


def test_a_pair_counts_one_over_its_distance_in_both_directions():
    pairs = count_pairs(sequences([[0, 1, 2]]), 3, window=5, decay=1.0).toarray()
    assert pairs.tolist() == [[0, 1, 0.5], [1, 0, 1], [0.5, 1, 0]]


def test_pairs_beyond_the_window_and_across_users_do_not_count():
    pairs = count_pairs(sequences([[0, 1, 2], [3]]), 4, window=1, decay=1.0).toarray()
    assert pairs[0, 2] == 0
    assert not pairs[3].any()


def test_an_item_does_not_pair_with_itself():
    assert count_pairs(sequences([[1, 1, 0]]), 2, window=1, decay=0.0).toarray().tolist() == [[0, 1], [1, 0]]


def test_sliding_samples_of_one_history_count_every_pair_once():
    whole = count_pairs(sequences([[0, 1, 2, 3]]), 4, window=3, decay=1.0)
    sliding = count_pairs(sequences([[0, 1], [0, 1, 2], [0, 1, 2, 3]], [1, 2, 3]), 4, window=3, decay=1.0)
    assert (whole != sliding).nnz == 0


@pytest.mark.parametrize("rows", [[], [[0]], [[0], [1]]], ids=["none", "one-item", "no-pair"])
def test_nothing_to_pair_is_refused(rows):
    with pytest.raises(DataError, match="no two items occur together"):
        fit(items(3), sequences(rows), CooccurrenceOptions(), 0)


def test_positive_information_is_that_of_the_formula():
    pairs = sparse.csr_matrix(np.array([[0.0, 4, 0], [4, 0, 1], [0, 1, 0]]))
    found = positive_information(pairs, shift=0.0, smoothing=1.0).toarray()
    # P(0,1) = .4, P(0) = .4, P(1) = .5: log 2. P(1,2) = .1, P(2) = .1: log 2.
    assert found[0, 1] == pytest.approx(math.log(2))
    assert found[1, 2] == pytest.approx(math.log(2))
    assert positive_information(pairs, shift=math.log(2) + 1e-9, smoothing=1.0).nnz == 0


def test_smoothing_lowers_the_information_of_rare_contexts():
    pairs = sparse.csr_matrix(np.array([[0.0, 4, 1], [4, 0, 1], [1, 1, 0]]))
    plain, smooth = (positive_information(pairs, -9.0, smoothing).toarray() for smoothing in (1.0, 0.75))
    assert smooth[0, 2] < plain[0, 2]
    assert smooth[0, 1] > plain[0, 1]


def test_items_without_training_interactions_get_zeros_and_are_counted():
    encoded = fit(items(6), sequences([[0, 1], [2, 3], [5]]), CooccurrenceOptions(dim=4), 0)
    assert np.linalg.norm(encoded.embedding, axis=1) == pytest.approx([1, 1, 1, 1, 0, 0], abs=1e-6)
    assert encoded.notes["items_without_interactions"] == 1
    assert encoded.notes["items_without_embedding"] == 2


def test_items_of_one_theme_lie_together(catalog, train):
    embedding = fit(catalog, train, CooccurrenceOptions(dim=8), 0).embedding
    near = embedding @ embedding.T
    assert near[0, 1:8].min() > near[0, 10:].max()
