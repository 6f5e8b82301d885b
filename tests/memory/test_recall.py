"""What a memory recalls, against the scorer's dense scores."""

from __future__ import annotations

import numpy as np
import pytest
from catalogs import titled
from scipy import sparse

from recrl.baselines import hybrid_knn
from recrl.baselines.hybrid_knn import HybridKnn, HybridKnnOptions
from recrl.data.dataset import Sequences
from recrl.data.frequency import training_counts
from recrl.data.ragged import Ragged
from recrl.memory import recall
from recrl.memory.recall import CONTEXT, Memory, best

ITEMS, SIZE = 30, 8


def whole(rows: list[list[int]]) -> Sequences:
    return Sequences(np.arange(len(rows), dtype=np.int32), Ragged.from_lists(rows), np.ones(len(rows), np.int32))


@pytest.fixture(scope="module")
def train() -> Sequences:
    rng = np.random.default_rng(0)
    return whole([rng.permutation(ITEMS)[: rng.integers(3, 9)].tolist() for _ in range(40)])


@pytest.fixture(scope="module")
def scorer(train: Sequences) -> HybridKnn:
    return fitted(train)


def fitted(train: Sequences) -> HybridKnn:
    return hybrid_knn.fit(train, titled(ITEMS), HybridKnnOptions(shrinkage=5, text_weight=0.5))


def memory(train: Sequences, scorer: HybridKnn, *, names: list[int] | None = None, exclude: bool = False) -> Memory:
    counts = training_counts(train, ITEMS)
    return Memory(scorer, counts, np.array(names or range(ITEMS)), SIZE, exclude_history=exclude)


def test_the_best_items_come_with_their_share_of_the_whole_score(train, scorer):
    histories = Ragged.from_lists([[3, 4], [7, 1, 2]])
    found, scores = memory(train, scorer).recall(histories), scorer.scores(histories)
    for row in range(2):
        expected = np.lexsort((np.arange(ITEMS), -scores[row]))[:SIZE]
        assert found.items[row].tolist() == expected.tolist()
        assert found.share[row] == pytest.approx(scores[row, expected] / scores[row].sum(), abs=1e-6)


def test_items_of_the_history_are_left_out_where_that_is_wanted(train, scorer):
    histories = Ragged.from_lists([[3, 4, 4], [7, 1, 2]])
    found = memory(train, scorer, exclude=True).recall(histories)
    scores = scorer.scores(histories)
    for row, history in enumerate(histories):
        scores[row, history] = 0
        assert not set(history.tolist()) & set(found.items[row].tolist())
        assert found.share[row].sum() == pytest.approx(np.sort(scores[row])[-SIZE:].sum() / scores[row].sum(), abs=1e-5)


def test_items_of_one_name_are_one_with_the_scores_of_all(train, scorer):
    names = list(range(ITEMS))
    names[20] = 5
    histories = Ragged.from_lists([[3, 4], [7, 1, 2]])
    found, scores = memory(train, scorer, names=names).recall(histories), scorer.scores(histories)
    scores[:, 5] += scores[:, 20]
    scores[:, 20] = 0
    assert 20 not in found.items
    for row in range(2):
        assert set(found.items[row].tolist()) == set(np.argsort(-scores[row], kind="stable")[:SIZE].tolist())


def test_an_item_that_is_named_like_one_of_the_history_is_left_out_with_it(train, scorer):
    names = list(range(ITEMS))
    names[20] = 5
    history = Ragged.from_lists([[20, 4]])
    assert 5 in memory(train, scorer, names=names).recall(history).items
    assert 5 not in memory(train, scorer, names=names, exclude=True).recall(history).items


def test_an_empty_history_recalls_nothing(train, scorer):
    found = memory(train, scorer).recall(Ragged.from_lists([[], [3]]))
    assert (found.items[0] == -1).all()
    assert not found.share[0].any()
    assert not found.features[0].any()
    assert memory(train, scorer).recall(Ragged.from_lists([])).items.shape == (0, SIZE)


def test_without_its_own_sequence_a_history_is_known_as_if_it_had_not_been_there(train, scorer):
    row = np.array([6])
    own = train.select(row)
    rest = train.select(np.delete(np.arange(len(train)), row))
    history = own.items.cut(np.array([0]), own.items.lengths - 1)
    ours = memory(train, scorer).recall(history, own)
    theirs = memory(rest, fitted(rest)).recall(history)
    assert ours.items.tolist() == theirs.items.tolist()
    np.testing.assert_allclose(ours.share, theirs.share, atol=1e-5)
    np.testing.assert_allclose(ours.features, theirs.features, atol=1e-4)


def test_histories_that_are_recalled_in_parts_are_known_as_together(train, scorer, monkeypatch):
    whole = memory(train, scorer).recall(train.items, train)
    monkeypatch.setattr(recall, "USERS_AT_ONCE", 7)
    parts = memory(train, scorer).recall(train.items, train)
    np.testing.assert_array_equal(parts.items, whole.items)
    np.testing.assert_array_equal(parts.features, whole.features)


def test_features_are_those_that_are_announced_and_of_the_size_of_one(train, scorer):
    known = memory(train, scorer)
    features = known.recall(train.items, train).features
    assert features.shape[-1] == known.num_features == CONTEXT + 2 + 3
    assert np.isfinite(features).all()
    assert np.abs(features).max() < 4


def test_scaled_features_have_mean_0_and_deviation_1_where_training_sequences_end(train, scorer):
    plain = memory(train, scorer)
    scaled = plain.scaled(train)
    end = train.items.lengths - 1
    histories = train.items.cut(np.zeros_like(end), end)
    before, after = plain.recall(histories, train), scaled.recall(histories, train)
    np.testing.assert_array_equal(before.items, after.items)
    np.testing.assert_array_equal(before.share, after.share)
    known = after.features[after.items >= 0]
    np.testing.assert_allclose(known.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(known.std(0), 1, atol=1e-4)
    assert not after.features[after.items < 0].any()


def test_a_feature_that_is_the_same_everywhere_is_not_divided_by_its_deviation(scorer, train):
    one = whole([[3, 4]])
    features = memory(train, scorer).scaled(one).recall(train.items, train).features
    assert np.isfinite(features).all()
    assert np.abs(features).max() < 50


def test_the_best_of_sparse_rows_are_those_of_dense_ones():
    dense = np.array([[0, 3, 3, 1], [0, 0, 0, 0], [-1, 2, 0, 0]], np.float32)
    items, scores = best(sparse.csr_matrix(dense), 3)
    assert items.tolist() == [[1, 2, 3], [-1, -1, -1], [1, -1, -1]]
    assert scores.tolist() == [[3, 3, 1], [0, 0, 0], [2, 0, 0]]
