from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recrl.data.dataset import Catalog
from recrl.data.log import BadRows, InteractionLog, k_core
from recrl.errors import DataError


def log_of(pairs: list[tuple[int, int]]) -> InteractionLog:
    pairs = sorted(pairs)
    texts = [f"item{number}" for number in range(8)]
    users, items = np.array(pairs, np.int32).reshape(-1, 2).T
    return InteractionLog(
        np.ascontiguousarray(users),
        np.ascontiguousarray(items),
        np.arange(len(pairs)),
        np.ones(len(pairs), np.float32),
        Catalog(texts, texts, texts, texts, texts),
        [f"user{number}" for number in range(8)],
    )


def core_one_by_one(pairs: list[tuple[int, int]], core: int) -> list[tuple[int, int]]:
    """The definition: take away one poor user or item at a time."""
    while True:
        for side in (0, 1):
            names = [pair[side] for pair in pairs]
            poor = next((name for name in names if names.count(name) < core), None)
            if poor is not None:
                pairs = [pair for pair in pairs if pair[side] != poor]
                break
        else:
            return pairs


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=40), st.integers(1, 3))
def test_k_core_is_what_taking_away_one_by_one_leaves(pairs, core):
    expected = sorted(core_one_by_one(pairs, core))
    if not expected:
        with pytest.raises(DataError, match="is empty"):
            k_core(log_of(pairs), core)
        return
    kept = k_core(log_of(pairs), core)
    named = zip(kept.users, kept.items, strict=True)
    assert [(kept.user_ids[user], kept.catalog.item_ids[item]) for user, item in named] == [
        (f"user{u}", f"item{i}") for u, i in expected
    ]
    assert len(kept.user_ids) == len({user for user, _ in expected})
    assert len(kept.catalog) == len({item for _, item in expected})


def test_a_bad_row_is_refused_with_file_and_line_or_counted():
    with pytest.raises(DataError, match=r"a\.txt, line 7: blank line \(x\)"):
        BadRows().add(Path("a.txt"), 7, "blank line", "x")
    lenient = BadRows(skip=True)
    for line in range(1, 40):
        lenient.add(Path("a.txt"), line, "blank line")
    assert lenient.counts == {"blank line": 39}
    assert (len(lenient.named), lenient.named[0]) == (20, "a.txt, line 1: blank line")
