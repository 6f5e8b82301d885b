from __future__ import annotations

import pytest

from recrl.data.rows import chunks, evenly


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(0, 3, []), (3, 3, [(0, 3)]), (7, 3, [(0, 3), (3, 6), (6, 7)])]
)
def test_chunks_cover_every_row_once(count, size, expected):
    assert [(rows.start, rows.stop) for rows in chunks(count, size)] == expected


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(0, 3, []), (3, 3, [0, 1, 2]), (2, 9, [0, 1]), (9, 3, [0, 4, 8]), (5, 1, [0])]
)
def test_rows_at_even_distances_are_distinct_and_no_more_than_there_are(count, size, expected):
    assert evenly(count, size).tolist() == expected
