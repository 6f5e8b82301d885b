from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recrl.data.ragged import Ragged
from recrl.data.top_k import top_k
from recrl.errors import DataError
from recrl.evaluation.metrics import (
    auc,
    first_occurrence,
    hits,
    legal_ratio,
    ndcg_at,
    partial_hit,
    pass_at,
    position1_pass_at,
    recall_at,
)

A, B, C, X = 0, 1, 2, 9


def lists(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int32)


def sets(*rows: list[int]) -> Ragged:
    return Ragged.from_lists(rows)


def test_the_recif_numbers_of_the_method_sheet(worked):
    predictions, targets = lists([B, A, X, B]), sets([A, B, C])
    assert pass_at(predictions, targets, 1).tolist() == [worked["E"]["pass1"]]
    assert recall_at(predictions, targets, 2).tolist() == [worked["E"]["recall2"]]
    assert recall_at(predictions, targets, 4).tolist() == [worked["E"]["recall4"]]


def test_rank_three_gives_an_ndcg_of_one_half(worked):
    assert ndcg_at(lists([5, 6, 7, 8]), sets([7]), 4).tolist() == [worked["A6_ndcg_rank3"]]


def test_the_partial_credit_of_an_exact_match_and_a_first_code_is_the_sheets(worked):
    codes = np.array([[1, 1, 1], [1, 2, 1], [7, 1, 1]])
    assert partial_hit(lists([0, 1]), sets([0]), codes, 2).tolist() == [worked["E_partial_hit"]]


def test_partial_credit_takes_the_best_target_and_gives_nothing_for_no_item():
    codes = np.array([[1, 1, 1], [1, 1, 2], [1, 3, 1], [4, 1, 1]])
    # Against {0, 3}: item 1 shares two codes with 0, item 2 one, item 3 is exact, -1 earns nothing.
    assert partial_hit(lists([1, 2, 3, -1]), sets([0, 3]), codes, 4).tolist() == [(10 + 1 + 100 + 0) / 4]
    assert partial_hit(lists([3]), sets([0]), codes, 1).tolist() == [0]  # equal later codes alone are no prefix


def test_a_target_at_the_last_place_counts_and_one_behind_it_does_not():
    predictions = lists([3, 4, 5], [3, 4, 5])
    targets = sets([5], [5])
    assert pass_at(predictions, targets, 3).tolist() == [1, 1]
    assert pass_at(predictions, targets, 2).tolist() == [0, 0]
    assert ndcg_at(predictions, targets, 2).tolist() == [0, 0]


def test_a_duplicate_counts_once_and_does_not_free_its_place():
    predictions, targets = lists([X, X, A, A]), sets([A])
    assert hits(predictions, targets).tolist() == [[False, False, True, False]]
    assert pass_at(predictions, targets, 2).tolist() == [0]  # the second X keeps place 2, so A stays third
    assert ndcg_at(predictions, targets, 4).tolist() == [0.5]
    assert recall_at(lists([A, A]), sets([A, B]), 2).tolist() == [0.5]


def test_an_item_named_twice_in_the_targets_is_one_target():
    assert recall_at(lists([A]), sets([A, A, B]), 1).tolist() == [0.5]
    assert ndcg_at(lists([A, X]), sets([A, A]), 2).tolist() == [1.0]


def test_no_item_is_never_a_hit_nor_a_duplicate():
    predictions = lists([-1, -1, A])
    assert first_occurrence(predictions).tolist() == [[False, False, True]]
    assert ndcg_at(predictions, sets([A]), 3).tolist() == [0.5]
    assert pass_at(lists([-1, -1]), sets([A]), 2).tolist() == [0]
    assert legal_ratio(lists([-1, 3, 3, -1]), 4).tolist() == [0.5]


def test_ndcg_of_a_set_is_one_when_all_places_hit_and_follows_the_ideal_order():
    assert ndcg_at(lists([A, B]), sets([A, B, C]), 2).tolist() == [1.0]
    second_only = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert ndcg_at(lists([X, B]), sets([A, B]), 2) == pytest.approx([second_only])


def test_position_one_asks_for_the_first_target_alone():
    predictions = lists([B, C], [C, A])
    assert position1_pass_at(predictions, sets([A, B], [A]), 2).tolist() == [0, 1]


def test_users_do_not_share_targets():
    assert pass_at(lists([A], [B]), sets([B], [A]), 1).tolist() == [0, 0]


def test_no_users_give_no_numbers():
    empty = np.zeros((0, 5), np.int32)
    for metric in (pass_at, recall_at, ndcg_at, position1_pass_at):
        assert metric(empty, sets(), 5).shape == (0,)


@pytest.mark.parametrize("k", [0, 4])
def test_k_outside_the_width_of_the_lists_is_refused(k):
    with pytest.raises(ValueError, match="width of the lists"):
        pass_at(lists([1, 2, 3]), sets([1]), k)


@pytest.mark.parametrize(
    ("targets", "words"),
    [(sets([1]), "targets of 1 users"), (sets([1], []), "user 1 has no target"), (sets([1], [-1]), "negative")],
    ids=["other-users", "no-target", "negative-target"],
)
def test_targets_that_cannot_be_are_refused(targets, words):
    with pytest.raises(ValueError, match=words):
        pass_at(lists([1], [2]), targets, 1)


rows_of_items = st.lists(st.lists(st.integers(-1, 12), min_size=4, max_size=4), min_size=1, max_size=6)


@given(rows=rows_of_items, data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_vectorised_metrics_equal_plain_set_arithmetic(rows, data):
    one_set = st.lists(st.integers(0, 12), min_size=1, max_size=5)
    wanted = data.draw(st.lists(one_set, min_size=len(rows), max_size=len(rows)))
    predictions, targets = lists(*rows), sets(*wanted)
    for k in (1, 3, 4):
        found = [set(row[:k]) & set(target) for row, target in zip(rows, wanted, strict=True)]
        assert pass_at(predictions, targets, k).tolist() == [float(bool(hit)) for hit in found]
        expected = [len(hit) / len(set(target)) for hit, target in zip(found, wanted, strict=True)]
        assert recall_at(predictions, targets, k).tolist() == expected
        dcg = [sum(1 / math.log2(row.index(item) + 2) for item in hit) for row, hit in zip(rows, found, strict=True)]
        best = [sum(1 / math.log2(place + 2) for place in range(min(k, len(set(target))))) for target in wanted]
        assert ndcg_at(predictions, targets, k) == pytest.approx(np.array(dcg) / best)


@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=5), st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_top_k_is_a_sort_by_score_then_by_lower_index(scores, k):
    expected = [sorted(range(7), key=lambda item, row=row: (-row[item], item))[:k] for row in scores]
    assert top_k(np.array(scores, np.float32), k).tolist() == expected


def test_an_item_of_minus_infinite_score_is_never_recommended():
    assert top_k(np.array([[-np.inf, 2.0, -np.inf, 3.0]]), 3).tolist() == [[3, 1, -1]]


def test_top_k_refuses_what_has_no_order():
    with pytest.raises(ValueError, match="NaN"):
        top_k(np.array([[0.0, np.nan]]), 1)
    for k in (0, 3):
        with pytest.raises(ValueError, match="number of items"):
            top_k(np.zeros((1, 2)), k)
    assert top_k(np.zeros((0, 2)), 2).shape == (0, 2)


def test_auc_counts_pairs_and_a_tie_as_one_half():
    # Positives .9 .4, negatives .4 .1: pairs won 3, tied 1 of 4.
    assert auc(np.array([0.9, 0.4, 0.4, 0.1]), np.array([1, 1, 0, 0])) == 3.5 / 4
    assert auc(np.array([0.1, 0.2, 0.3]), np.array([1, 0, 0])) == 0.0


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=20))
@settings(max_examples=100, deadline=None)
def test_auc_equals_the_count_over_all_pairs(rows):
    positives = [score for score, label in rows if label]
    negatives = [score for score, label in rows if not label]
    if not positives or not negatives:
        return
    won = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    assert auc(scores.astype(float), labels.astype(int)) == pytest.approx(won / (len(positives) * len(negatives)))


def test_auc_of_one_kind_of_label_is_the_users_error():
    with pytest.raises(DataError, match="2 rows of label 1 and 0 of label 0"):
        auc(np.array([0.1, 0.2]), np.array([1, 1]))
    with pytest.raises(ValueError, match="finite score"):
        auc(np.array([0.1, np.nan]), np.array([0, 1]))
