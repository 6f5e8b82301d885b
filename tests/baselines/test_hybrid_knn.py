from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from catalogs import nameless, titled
from scipy import sparse

from recrl.baselines import item_knn, text_knn
from recrl.baselines.hybrid_knn import HybridKnnOptions, _ndcg, fit
from recrl.baselines.item_knn import ItemKnnOptions
from recrl.baselines.text_knn import TextKnnOptions
from recrl.data.dataset import Dataset, Sequences
from recrl.data.prepare import prepare
from recrl.data.ragged import Ragged
from recrl.data.top_k import top_k
from recrl.evaluation.metrics import ndcg_at


def whole(rows: list[list[int]]) -> Sequences:
    return Sequences(np.arange(len(rows), dtype=np.int32), Ragged.from_lists(rows), np.ones(len(rows), np.int32))


def random_rows(items: int, users: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(items)[: rng.integers(3, 9)].tolist() for _ in range(users)]


def test_the_score_is_the_weighted_sum_of_both_parts():
    train, catalog = whole(random_rows(30, 40)), titled(30)
    histories = Ragged.from_lists([[3, 4], [7], []])
    together = item_knn.fit(train, catalog, ItemKnnOptions(shrinkage=9)).scores(histories)
    text = text_knn.fit(train, catalog, TextKnnOptions()).scores(histories)
    found = fit(train, catalog, HybridKnnOptions(shrinkage=9, text_weight=0.25)).scores(histories)
    np.testing.assert_allclose(found, 9 * together + 0.25 * text, atol=1e-6)


def test_text_that_tells_what_follows_gets_weight_and_text_that_does_not_gets_none():
    # Two items of every title. Each user takes both of one title, and no two users the same.
    catalog = titled(60, seed=3)
    pairs = catalog.titles[:30] * 2
    twins = type(catalog)(catalog.item_ids, pairs, catalog.descriptions, catalog.brands, catalog.categories)
    told = whole([[item, item + 30] for item in range(30)])
    assert fit(told, twins, HybridKnnOptions()).text_weight > 0
    # Always the same two items, whose texts have nothing in common with each other.
    titles = ["red train", "grey robot", "red castle", "grey tower"]
    apart = type(catalog)([*"abcd"], titles, *([""] * 4 for _ in range(3)))
    assert fit(whole([[0, 1]] * 20), apart, HybridKnnOptions()).text_weight == 0


def test_the_weight_is_judged_by_the_first_ten_places_without_the_history():
    scores = np.tile(np.arange(13.0, 0, -1), (4, 1))  # item i stands at place i + 1
    scores[3] = 0
    histories = Ragged.from_lists([[], [], [0, 4, 12], []])
    found = _ndcg(sparse.csr_matrix(scores), histories, np.array([9, 10, 10, 0], np.int32))
    assert found.tolist() == pytest.approx([1 / np.log2(11), 0, 1 / np.log2(10), 0])


def test_the_chosen_weight_does_not_depend_on_sequences_that_are_not_looked_at_and_repeats():
    train, catalog = whole(random_rows(50, 80, seed=5)), titled(50)
    first, second = (fit(train, catalog, HybridKnnOptions(tuning_sequences=30)).text_weight for _ in range(2))
    assert first == second


def test_without_text_it_is_item_knn_and_says_so(caplog):
    train, histories = whole(random_rows(20, 30)), Ragged.from_lists([[1, 2], [5]])
    with caplog.at_level(logging.WARNING):
        found = fit(train, nameless(20), HybridKnnOptions(shrinkage=2)).scores(histories)
    assert "item_knn" in caplog.text
    expected = 2 * item_knn.fit(train, nameless(20), ItemKnnOptions(shrinkage=2)).scores(histories)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_nothing_to_fit_on_gives_no_text_weight():
    assert fit(whole([]), titled(5), HybridKnnOptions()).text_weight == 0


@pytest.fixture(scope="module")
def toys(shared: Path, tmp_path_factory) -> Dataset:
    from recrl.data import dataset as datasets

    out = tmp_path_factory.mktemp("toys") / "data"
    prepare("amazon", shared / "data" / "amazon14" / "toys", out)
    return datasets.load(out)


def test_on_toys_validation_it_beats_both_of_its_parts_by_a_tenth(toys):
    model = fit(toys.train, toys.catalog, HybridKnnOptions())
    valid = toys.valid.select(np.arange(0, len(toys.valid), 12))
    seen = np.repeat(np.arange(len(valid)), valid.history.lengths), valid.history.values

    def gains(scores) -> float:
        values = np.array(scores)
        values[seen] = -1
        return float(ndcg_at(top_k(values, 10), valid.targets, 10).mean())

    both, together, text = (gains(part.scores(valid.history)) for part in (model, model.together, model.text))
    assert both > 1.08 * together > 1.08 * text
