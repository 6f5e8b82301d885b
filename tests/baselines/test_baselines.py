from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from catalogs import titled

from recrl.baselines import BASELINES, recommend
from recrl.baselines.item_knn import ItemKnnOptions
from recrl.data.dataset import Sequences
from recrl.data.ragged import Ragged
from recrl.errors import ConfigError
from recrl.evaluation.metrics import ndcg_at, pass_at
from recrl.parts import Choice, load_part, resolve


def sequences(*rows: list[int], first_target: list[int] | None = None) -> Sequences:
    users = np.arange(len(rows), dtype=np.int32)
    return Sequences(users, Ragged.from_lists(rows), np.array(first_target or [1] * len(rows), np.int32))


def fit(kind: str, train: Sequences, num_items: int, **options: float):
    part, checked = resolve(BASELINES, Choice(kind=kind, **options), where="baseline")
    return part.run(train, titled(num_items), checked)


def test_popularity_recommends_the_most_frequent_and_ties_go_to_the_lower_index():
    model = fit("popularity", sequences([2, 1, 3], [2, 3]), 5)
    assert recommend(model, Ragged.from_lists([[], [2]]), 4).tolist() == [[2, 3, 1, 0]] * 2


def test_similarity_is_the_hand_computed_one():
    model = fit("item_knn", sequences([0, 1, 2], [0, 2]), 4, window=2, shrinkage=0)
    # Counts 2, 1, 2. After 0: item 1 at 1, item 2 at 2 and at 1. After 1: item 2 at 1. Backward weighs one half.
    r2 = math.sqrt(2)
    expected = [[0, 1 / r2, 1.5 / 2, 0], [0.5 / r2, 0, 1 / r2, 0], [0.75 / 2, 0.5 / r2, 0, 0], [0, 0, 0, 0]]
    assert model.similarity.toarray() == pytest.approx(np.array(expected), abs=1e-6)


def test_a_history_item_weighs_one_over_its_place_from_the_end():
    model = fit("item_knn", sequences([0, 1], [2, 3]), 4, backward_weight=0, shrinkage=0)
    assert model.scores(Ragged.from_lists([[0, 2], [2, 0]])).tolist() == [[0, 0.5, 0, 1], [0, 1, 0, 0.5]]


def test_only_the_last_items_are_looked_at_and_a_repeated_one_adds_up():
    model = fit("item_knn", sequences([0, 1]), 2, backward_weight=0, num_recent=2, shrinkage=0)
    assert model.scores(Ragged.from_lists([[0, 1, 1], [0, 0]])).tolist() == [[0, 0], [0, 1.5]]


def test_an_item_that_follows_itself_is_no_neighbour_of_its_own():
    assert fit("item_knn", sequences([1, 1, 1]), 2).similarity.nnz == 0


def test_pairs_farther_than_the_window_or_of_two_users_do_not_count():
    model = fit("item_knn", sequences([0, 1, 2], [3, 0]), 4, window=1, backward_weight=0)
    assert {tuple(pair) for pair in np.argwhere(model.similarity.toarray())} == {(0, 1), (1, 2), (3, 0)}


def test_overlapping_samples_fit_the_same_model_as_the_history_behind_them():
    whole = fit("item_knn", sequences([0, 1, 2, 3]), 4)
    samples = fit("item_knn", sequences([0, 1], [0, 1, 2], [0, 1, 2, 3], first_target=[1, 2, 3]), 4)
    assert (whole.similarity != samples.similarity).nnz == 0


def test_shrinkage_damps_pairs_of_rare_items_more():
    train = sequences([0, 1], *([[2, 3]] * 9))
    before, after = (fit("item_knn", train, 4, shrinkage=s).similarity.toarray() for s in (0, 5))
    assert after[0, 1] / before[0, 1] < after[2, 3] / before[2, 3] < 1


def test_nothing_known_scores_nothing():
    model = fit("item_knn", sequences([0, 1]), 4)
    assert not model.scores(Ragged.from_lists([[], [3]])).any()
    assert not fit("item_knn", sequences(), 3).scores(Ragged.from_lists([[0]])).any()


@pytest.mark.parametrize("kind", BASELINES)
def test_chunks_of_users_do_not_change_the_lists(kind):
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, 30, 8).tolist() for _ in range(25)]
    model = fit(kind, sequences(*rows), 30)
    histories = Ragged.from_lists(rows)
    whole = recommend(model, histories, 10)
    np.testing.assert_array_equal(recommend(model, histories, 10, users_per_chunk=4), whole)
    np.testing.assert_array_equal(recommend(model, histories.select(np.zeros(0, np.int64)), 10), whole[:0])


def test_an_unknown_kind_or_option_is_refused():
    with pytest.raises(ConfigError, match="itemknn"):
        load_part(BASELINES, "itemknn", where="baseline")
    with pytest.raises(ConfigError, match=r"baseline\.windows"):
        resolve(BASELINES, Choice(kind="item_knn", windows=3), where="baseline")
    assert ItemKnnOptions().window == 3


def test_item_knn_reaches_the_published_probe_on_toys(shared: Path):
    lines = (shared / "data" / "amazon14" / "toys" / "sequences.txt").read_text().splitlines()
    rows = [[int(item) - 1 for item in line.split()[1:]] for line in lines]
    num_items = max(map(max, rows)) + 1
    model = fit("item_knn", sequences(*(row[:-2] for row in rows)), num_items, shrinkage=0)
    histories, targets = Ragged.from_lists([row[:-1] for row in rows]), Ragged.from_lists([row[-1:] for row in rows])
    predictions = recommend(model, histories, 10)
    # The probe's tie order is not known; its figures lie within what the ties allow (.0853 to .0858, .0531 to .0539).
    assert pass_at(predictions, targets, 10).mean() == pytest.approx(0.0854, abs=0.0003)
    assert ndcg_at(predictions, targets, 10).mean() == pytest.approx(0.0534, abs=0.0003)


@pytest.mark.parametrize("kind", ["item_knn", "hybrid_knn"])
@pytest.mark.parametrize("shrinkage", [0, 3])
def test_without_its_own_counts_a_history_is_scored_as_if_its_sequence_had_not_been_there(kind, shrinkage):
    own, others = [0, 1, 2, 0, 3], ([1, 2], [0, 3, 1], [2, 2, 3])
    history, options = Ragged.from_lists([[0, 1, 2]]), {"shrinkage": shrinkage}
    if kind == "hybrid_knn":
        options["text_weight"] = 0.5
    both = fit(kind, sequences(own, *others), 4, **options)
    rest = fit(kind, sequences(*others), 4, **options)
    expected = rest.scores(history)[0]
    assert both.scores(history, sequences(own))[0] == pytest.approx(expected, abs=1e-6)
    assert both.scores(history)[0] != pytest.approx(expected, abs=1e-3)


def test_what_only_the_own_sequence_knew_scores_zero_without_it():
    rows = np.random.default_rng(3).permutation(200).reshape(20, 10).tolist()  # every item once: no other knows any
    train = sequences(*rows)
    for window, shrinkage in ((3, 0.0), (3, 50.0), (9, 7.0)):
        model = fit("item_knn", train, 200, window=window, shrinkage=shrinkage)
        assert model.scores(train.items).any()
        assert not model.scores(train.items, train).any()


def test_popularity_without_a_sequence_is_that_of_the_others():
    own, others = [0, 1, 1], ([1, 2], [3, 1])
    model = fit("popularity", sequences(own, *others), 4)
    left = model.scores(Ragged.from_lists([[0]]), sequences(own))[0]
    assert left.tolist() == fit("popularity", sequences(*others), 4).scores(Ragged.from_lists([[]]))[0].tolist()
    assert model.scores(Ragged.from_lists([[0]]))[0].tolist() == [1, 4, 1, 1]
