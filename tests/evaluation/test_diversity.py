from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recrl.data.categories import category_codes
from recrl.data.dataset import Sequences
from recrl.data.frequency import cold_items, training_counts
from recrl.data.ragged import Ragged
from recrl.evaluation.diversity import cold_recall_at, coverage_at, entropy_at, ild_at


def test_entropy_pools_over_users_as_the_method_sheet_computes_it(worked):
    expected = worked["A6_pooled_entropy"]
    shown = np.array([["AB".index(letter) if letter in "AB" else 2 for letter in row] for row in expected["lists"]])
    found = entropy_at(shown, category_codes(["A", "B", "C"]), 3)
    assert found.pooled_nats == pytest.approx(expected["pooled_nats"], abs=1e-12)
    assert found.pooled_bits == pytest.approx(expected["pooled_bits"], abs=1e-12)
    assert found.per_list_nats.mean() == pytest.approx(expected["mean_per_list_nats"], abs=1e-12)


def test_entropy_leaves_out_items_without_a_category_and_places_without_an_item():
    categories = category_codes(["b", "", "a"])
    assert categories.tolist() == [1, -1, 0]
    found = entropy_at(np.array([[0, 1, 2, -1], [1, 1, -1, -1]]), categories, 4)
    assert found.pooled_bits == pytest.approx(1.0)
    assert found.per_list_bits[0] == pytest.approx(1.0)
    assert np.isnan(found.per_list_bits[1])


def test_entropy_of_lists_without_any_category_is_not_a_number():
    for shown in (np.zeros((0, 2), int), np.array([[-1, 0]])):
        assert np.isnan(entropy_at(shown, category_codes([""]), 2).pooled_nats)


def test_lists_of_one_category_have_no_entropy():
    assert entropy_at(np.array([[0, 1]]), category_codes(["a", "a"]), 2).pooled_nats == 0.0


def test_ild_is_the_method_sheets(worked):
    embeddings = np.array([[1.0, 0.0], [0.0, 1.0], [math.sqrt(0.5), math.sqrt(0.5)]])
    assert ild_at(np.array([[0, 1, 2]]), embeddings, 3)[0] == pytest.approx(worked["A6_ILD"], abs=1e-6)


def test_ild_ignores_length_of_vectors_duplicates_and_missing_items():
    embeddings = np.array([[1.0, 0.0], [0.0, 5.0], [0.0, 0.0]])
    assert ild_at(np.array([[0, 0, 1, -1]]), embeddings, 4)[0] == pytest.approx(1.0)
    assert ild_at(np.array([[0, 2]]), embeddings, 2)[0] == pytest.approx(1.0)  # the cosine with a zero vector is 0


def test_a_list_of_fewer_than_two_items_has_no_ild():
    found = ild_at(np.array([[0, 0], [0, -1], [-1, -1], [0, 1]]), np.eye(2), 2)
    assert np.isnan(found).tolist() == [True, True, True, False]


def test_coverage_is_the_share_of_the_catalogue_shown_to_anyone():
    assert coverage_at(np.array([[0, 1, 7], [1, -1, 8]]), 8, 2) == 2 / 8
    assert coverage_at(np.zeros((0, 2), int), 8, 2) == 0.0


def test_counts_of_overlapping_samples_are_those_of_the_history_behind_them():
    whole = Sequences(np.zeros(1, np.int32), Ragged.from_lists([[5, 6, 5, 7]]), np.array([1], np.int32))
    slides = [[5, 6], [5, 6, 5], [5, 6, 5, 7]]
    samples = Sequences(np.zeros(3, np.int32), Ragged.from_lists(slides), np.array([1, 2, 3], np.int32))
    assert training_counts(whole, 9).tolist() == training_counts(samples, 9).tolist() == [0, 0, 0, 0, 0, 2, 1, 1, 0]


def test_cold_items_are_the_least_seen_and_never_seen_ones_come_first():
    counts = np.array([9, 0, 3, 8, 0, 7, 6, 5, 4, 10])
    assert np.flatnonzero(cold_items(counts, list("abcdefghij"), fraction=0.3)).tolist() == [1, 2, 4]


def test_the_number_of_cold_items_is_the_floor_of_the_share():
    assert cold_items(np.zeros(14), [str(i) for i in range(14)], fraction=0.2).sum() == 2
    assert cold_items(np.zeros(100), [str(i) for i in range(100)], fraction=0.29).sum() == 29  # 28.999... in floats


def test_ties_follow_the_item_id_and_not_its_place_in_the_catalogue():
    ids = [f"item-{number}" for number in range(60)]
    cold = {item for item, is_cold in zip(ids, cold_items(np.ones(60), ids), strict=True) if is_cold}
    backwards = ids[::-1]
    again = {item for item, is_cold in zip(backwards, cold_items(np.ones(60), backwards), strict=True) if is_cold}
    assert cold == again
    assert len(cold) == 12
    other_seed = {item for item, is_cold in zip(ids, cold_items(np.ones(60), ids, seed=1), strict=True) if is_cold}
    assert other_seed != cold


def test_cold_items_are_the_same_in_another_process():
    script = "import numpy as np; from recrl.data.frequency import cold_items; "
    script += "print(np.flatnonzero(cold_items(np.ones(40), list(map(str, range(40))))).tolist())"
    env = {"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env).stdout
    here = np.flatnonzero(cold_items(np.ones(40), [str(item) for item in range(40)])).tolist()
    assert there == f"{here}\n"


def test_cold_recall_is_over_users_with_a_cold_target_or_over_all():
    cold = np.array([True, False, False])
    predictions = np.array([[0, 1], [1, 0], [2, 1], [1, 2]])
    targets = Ragged.from_lists([[0], [1], [0], [0, 1]])
    found = cold_recall_at(predictions, targets, cold, 2)
    np.testing.assert_array_equal(found, [1, np.nan, 0, 0])  # user 3 found its warm target only
    assert cold_recall_at(predictions, targets, cold, 2, denominator="all").tolist() == [1, 0, 0, 0]


def test_no_item_is_not_taken_for_the_last_item_of_the_catalogue():
    cold = np.array([False, True])
    assert cold_recall_at(np.array([[-1]]), Ragged.from_lists([[1]]), cold, 1).tolist() == [0]
    assert np.isnan(ild_at(np.array([[-1, 0]]), np.eye(2), 2)[0])
    assert np.isnan(entropy_at(np.array([[-1]]), np.array([0, 1]), 1).pooled_nats)
