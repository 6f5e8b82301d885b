"""Ragged rows against Python lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recrl.data.ragged import Ragged

LISTS = st.lists(st.lists(st.integers(-5, 99), max_size=6), max_size=8)


def as_lists(rows: Ragged) -> list[list[int]]:
    return [row.tolist() for row in rows]


@given(LISTS)
def test_lists_come_back_as_they_went_in(rows: list[list[int]]) -> None:
    ragged = Ragged.from_lists(rows)
    assert as_lists(ragged) == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert ragged.values.dtype == np.int32


@given(LISTS, st.integers(0, 7))
def test_tail_keeps_the_last_entries(rows: list[list[int]], limit: int) -> None:
    expected = [row[-limit:] if limit else [] for row in rows]
    assert as_lists(Ragged.from_lists(rows).tail(limit)) == expected


@given(st.data())
def test_select_follows_the_order_and_repeats(data: st.DataObject) -> None:
    rows = data.draw(LISTS.filter(bool))
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10))
    selected = Ragged.from_lists(rows).select(np.array(chosen, np.int64))
    assert as_lists(selected) == [rows[row] for row in chosen]


@given(st.data())
def test_cut_is_a_slice_of_every_row(data: st.DataObject) -> None:
    rows = data.draw(LISTS)
    cuts = [sorted(data.draw(st.tuples(st.integers(0, len(row)), st.integers(0, len(row))))) for row in rows]
    start = np.array([cut[0] for cut in cuts], np.int64)
    stop = np.array([cut[1] for cut in cuts], np.int64)
    expected = [row[begin:end] for row, (begin, end) in zip(rows, cuts, strict=True)]
    assert as_lists(Ragged.from_lists(rows).cut(start, stop)) == expected


def test_windows_may_overlap_and_cross_rows() -> None:
    ragged = Ragged.from_lists([[1, 2, 3], [4, 5]])
    assert as_lists(ragged.windows(np.array([0, 1, 2]), np.array([2, 4, 0]))) == [[1, 2], [2, 3, 4, 5], []]


def test_negative_rows_count_from_the_end_and_others_are_refused() -> None:
    ragged = Ragged.from_lists([[1], [2, 3]])
    assert ragged[-1].tolist() == [2, 3]
    for row in (2, -3):
        with pytest.raises(IndexError):
            ragged[row]


def test_padded_rows_hold_the_fill_behind_their_end() -> None:
    rows = Ragged.from_lists([[1, 2, 3], [], [4]])
    assert rows.padded(-1).tolist() == [[1, 2, 3], [-1, -1, -1], [4, -1, -1]]
    assert Ragged.from_lists([]).padded(0).shape == (0, 0)


@pytest.mark.parametrize("rows", [0, 3])
def test_empty_rows_hold_nothing(rows: int) -> None:
    ragged = Ragged.empty(rows)
    assert as_lists(ragged) == [[]] * rows
    assert ragged.values.dtype == Ragged.from_lists([]).values.dtype
