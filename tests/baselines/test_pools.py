"""Candidates: the best of a scorer, by hand and over random histories, and never the target by force."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from catalogs import nameless
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recrl.baselines import pools
from recrl.baselines.item_knn import ItemKnnOptions
from recrl.baselines.item_knn import fit as fit_knn
from recrl.baselines.pools import Retriever, best, recall
from recrl.baselines.popularity import fit as fit_popularity
from recrl.data.dataset import Sequences
from recrl.data.ragged import Ragged
from recrl.parts import Options

ITEMS = 30


@dataclass(frozen=True)
class Fixed:
    """A scorer that gives every history the same scores."""

    values: NDArray[np.float32]

    def scores(self, histories: Ragged, own: Sequences | None = None) -> NDArray[np.float32]:  # noqa: ARG002
        return np.broadcast_to(self.values, (len(histories), len(self.values)))


def fixed(values: list[float], *, counts: list[float] | None = None, names: list[int] | None = None) -> Retriever:
    """Two candidates, best first."""
    known = np.array(counts or [0] * len(values), np.float32)
    called = np.array(names or range(len(values)))
    return Retriever(Fixed(np.array(values, np.float32)), Fixed(known), called, 2, by_rank=True)


def whole(rows: list[list[int]]) -> Sequences:
    """Users' whole histories, of which everything behind the first item is a target."""
    return Sequences(np.arange(len(rows), dtype=np.int32), Ragged.from_lists(rows), np.ones(len(rows), np.int32))


def random_sequences(seed: int, users: int = 40) -> Sequences:
    rng = np.random.default_rng(seed)
    return whole([rng.permutation(ITEMS)[: rng.integers(3, 9)].tolist() for _ in range(users)])


def retriever(train: Sequences, kind: str = "item_knn", *, size: int = 6, by_rank: bool = True) -> Retriever:
    popularity = fit_popularity(train, nameless(ITEMS), Options())
    scorer = fit_knn(train, nameless(ITEMS), ItemKnnOptions(shrinkage=0)) if kind == "item_knn" else popularity
    return Retriever(scorer, popularity, np.arange(ITEMS), size, by_rank=by_rank)


def before_the_last(train: Sequences) -> tuple[Ragged, Ragged]:
    """Histories and targets: the last item of every sequence is asked for."""
    end = train.items.lengths
    return train.items.cut(np.zeros_like(end), end - 1), train.items.cut(end - 1, end)


def test_equal_scores_go_to_the_more_popular_item_and_then_to_the_lower() -> None:
    scores = np.array([[1, 3, 1, 1, 1], [0, 0, 0, 0, 0]], np.float32)
    popularity = np.array([[2, 0, 5, 5, 1], [1, 2, 3, 4, 5]], np.float32)
    assert best(scores, popularity, 3).tolist() == [[1, 2, 3], [4, 3, 2]]
    assert best(scores, popularity, 5).tolist() == [[1, 2, 3, 0, 4], [4, 3, 2, 1, 0]]


def test_items_of_the_history_are_no_candidates() -> None:
    found = fixed([5, 4, 3, 2]).pools(Ragged.from_lists([[], [0], [2, 0], [1, 1]]))
    assert [row.tolist() for row in found] == [[0, 1], [1, 2], [1, 3], [0, 2]]


def test_of_items_that_are_called_alike_one_is_a_candidate_with_the_best_score_of_them() -> None:
    found = fixed([1, 2, 3, 9], names=[0, 1, 2, 0]).pools(Ragged.from_lists([[], [3], [2]]))
    assert [row.tolist() for row in found] == [[0, 2], [2, 1], [0, 1]]


def test_the_order_of_the_catalogue_holds_the_same_candidates() -> None:
    train = random_sequences(0)
    histories, _ = before_the_last(train)
    ranked = retriever(train).pools(histories, train)
    plain = retriever(train, by_rank=False).pools(histories, train)
    assert any(one.tolist() != other.tolist() for one, other in zip(ranked, plain, strict=True))
    assert [sorted(row.tolist()) for row in ranked] == [row.tolist() for row in plain]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["item_knn", "popularity"]), st.integers(2, 20))
def test_candidates_are_distinct_as_many_as_wanted_and_not_taken(seed: int, kind: str, size: int) -> None:
    train = random_sequences(seed, users=8)
    histories, _ = before_the_last(train)
    for own in (None, train):
        found = retriever(train, kind, size=size).pools(histories, own)
        for row, history in zip(found, histories, strict=True):
            assert len({*row.tolist()}) == size
            assert not {*row.tolist()} & {*history.tolist()}


@pytest.mark.parametrize("kind", ["item_knn", "popularity"])
def test_histories_that_are_scored_in_parts_have_the_same_candidates(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = random_sequences(1)
    histories, _ = before_the_last(train)
    together = retriever(train, kind).pools(histories, train)
    monkeypatch.setattr(pools, "USERS_AT_ONCE", 7)
    assert retriever(train, kind).pools(histories, train).values.tolist() == together.values.tolist()


def test_a_training_history_has_the_candidates_that_a_stranger_has() -> None:
    """Popularity leaves a sequence out exactly: as if it had been fitted without it."""
    train = random_sequences(2)
    histories, _ = before_the_last(train)
    found = retriever(train, "popularity").pools(histories, train)
    for row in range(len(train)):
        rest = train.select(np.delete(np.arange(len(train)), row))
        alone = retriever(rest, "popularity").pools(histories.select(np.array([row])))
        assert found[row].tolist() == alone[0].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_what_only_the_own_sequence_knows_is_not_known(seed: int) -> None:
    """Taken out of itself a count leaves a rounding error, which must not lift the target above all unknown items."""
    train = random_sequences(seed)
    own = train.select(np.arange(1))
    path = own.items[0].tolist()
    others = [[item for item in row.tolist() if item != path[-1]] for row in train.items][1:]
    train = whole([path, *[row for row in others if len(row) > 1]])
    history = Ragged.from_lists([path[:-1]])
    scorer = retriever(train).scorer
    known = int((scorer.scores(history, own)[0] > 1e-4).sum())
    size = min(known + 2, ITEMS - len(path))
    assert path[-1] in retriever(train, size=size).pools(history)[0]
    assert path[-1] not in retriever(train, size=size).pools(history, own)[0]


def test_recall_is_the_share_of_targets_among_the_candidates() -> None:
    held = Ragged.from_lists([[1, 2], [1, 2], [], [5, 6], [5, 6]])
    found = recall(held, Ragged.from_lists([[2], [3], [1], [5, 7, 6, 8], []]))
    np.testing.assert_array_equal(found, [1, 0, np.nan, 0.5, np.nan])
