from __future__ import annotations

import numpy as np
import pytest
from catalogs import nameless, titled

from recrl.baselines import text_knn
from recrl.baselines.text_knn import TextKnnOptions, fit
from recrl.data.dataset import Catalog, Sequences
from recrl.data.ragged import Ragged
from recrl.errors import DataError
from recrl.sids.encoders import unit_rows
from recrl.sids.encoders.tfidf_svd import text_embedding

NOBODY = Sequences(np.zeros(0, np.int32), Ragged.from_lists([]), np.zeros(0, np.int32))


def test_similarity_is_the_cosine_to_the_power_for_the_nearest_items_and_not_for_the_item_itself():
    catalog = titled(40)
    vectors = unit_rows(text_embedding(catalog, NOBODY, 0))
    cosine = np.clip(vectors @ vectors.T, 0, None)
    np.fill_diagonal(cosine, 0)
    found = fit(NOBODY, catalog, TextKnnOptions(neighbours=5, power=2)).similarity.toarray()
    for item in range(40):
        nearest = np.flatnonzero(found[item])
        assert len(nearest) <= 5
        assert found[item, nearest] == pytest.approx(cosine[item, nearest] ** 2, abs=1e-6)
        assert np.sort(found[item])[-5:] == pytest.approx(np.sort(cosine[item])[-5:] ** 2, abs=1e-6)


def test_a_history_weighs_its_last_items_more():
    titles = ["red wooden train", "red wooden train", "grey space robot", "grey space robot", "farm"]
    catalog = Catalog([*"abcde"], titles, *([""] * 5 for _ in range(3)))
    scores = fit(NOBODY, catalog, TextKnnOptions()).scores(Ragged.from_lists([[0, 2], [2, 0], []]))
    assert scores[0, 3] == pytest.approx(1) == scores[1, 1]
    assert scores[0, 1] == pytest.approx(0.5) == scores[1, 3]
    assert not scores[2].any()


def test_large_catalogues_are_searched_cell_by_cell_and_find_most_neighbours(monkeypatch):
    catalog = titled(600, seed=1)
    whole = fit(NOBODY, catalog, TextKnnOptions(neighbours=10)).similarity
    monkeypatch.setattr(text_knn, "EXACT_ITEMS", 100)
    monkeypatch.setattr(text_knn, "ITEMS_A_CELL", 30)
    monkeypatch.setattr(text_knn, "CELLS_VISITED", 12)
    cells = fit(NOBODY, catalog, TextKnnOptions(neighbours=10)).similarity
    assert cells.sum() > 0.95 * whole.sum()


def test_a_cell_of_many_items_is_taken_apart_and_finds_the_same_neighbours(monkeypatch):
    catalog = titled(300, seed=2)
    whole = fit(NOBODY, catalog, TextKnnOptions(neighbours=5)).similarity
    monkeypatch.setattr(text_knn, "EXACT_ITEMS", 100)
    monkeypatch.setattr(text_knn, "ITEMS_A_CELL", 200)  # one cell
    monkeypatch.setattr(text_knn, "LARGEST_CELL", 20)  # of 15 parts
    parts = fit(NOBODY, catalog, TextKnnOptions(neighbours=5)).similarity
    both = (np.sort(found.toarray(), axis=1) for found in (parts, whole))  # of equal ones either may be among the five
    assert next(both) == pytest.approx(next(both), abs=0.01)  # vectors of half precision


def test_items_without_text_are_nobodys_neighbours_in_cells(monkeypatch):
    titles = ["red wooden train", "", "red wooden trains", "", "red train"]
    catalog = Catalog([*"abcde"], titles, *([""] * 5 for _ in range(3)))
    monkeypatch.setattr(text_knn, "EXACT_ITEMS", 1)
    similarity = fit(NOBODY, catalog, TextKnnOptions()).similarity.toarray()
    assert similarity[0, 2] > 0
    assert similarity[0, 4] > 0
    assert not similarity[[1, 3]].any()
    assert not similarity[:, [1, 3]].any()
    assert not similarity.diagonal().any()


def test_without_any_text_there_are_no_neighbours():
    with pytest.raises(DataError, match="text"):
        fit(NOBODY, nameless(3), TextKnnOptions())
