from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recrl.data.dataset import Catalog
from recrl.data.log import InteractionLog, sorted_log
from recrl.data.splits import Split, chronological, leave_one_out
from recrl.errors import DataError


def log_of(times_by_user: list[list[int]]) -> InteractionLog:
    """Every interaction is an item of its own, so an item names its position in the log."""
    users = np.repeat(np.arange(len(times_by_user)), [len(row) for row in times_by_user]).astype(np.int32)
    times = np.array([time for row in times_by_user for time in sorted(row)], np.int64)
    texts = [str(item) for item in range(len(users))]
    catalog = Catalog(texts, texts, texts, texts, texts)
    return InteractionLog(
        users, np.arange(len(users), dtype=np.int32), times, None, catalog, [str(u) for u in range(len(times_by_user))]
    )


def as_lists(rows) -> list[list[int]]:
    return [row.tolist() for row in rows]


def check_no_leak(log: InteractionLog, split: Split) -> None:
    trained = set(split.train.items.values.tolist())
    first_held_out = np.full(len(log.user_ids), len(log))
    for part in (split.valid, split.test):
        assert trained.isdisjoint(part.targets.values.tolist())
        np.minimum.at(first_held_out, part.users, part.targets.values)
    assert set(split.valid.targets.values.tolist()).isdisjoint(split.test.targets.values.tolist())
    rows = log.by_user()
    for user, items in zip(split.train.users, split.train.items, strict=True):
        assert items.tolist() == rows[user][: len(items)].tolist()
        assert (items < first_held_out[user]).all()
    for part in (split.valid, split.test):
        for user, history, target in zip(part.users, part.history, part.targets, strict=True):
            before = rows[user][rows[user] < target[0]].tolist()
            assert history.tolist() == before[len(before) - len(history) :]
            assert len(history) >= 1
            assert target[0] in rows[user]
    assert set(split.valid.history.values.tolist()).isdisjoint(split.test.targets.values.tolist())


LOGS = st.lists(st.lists(st.integers(0, 6), min_size=0, max_size=8), min_size=1, max_size=8)


@given(LOGS)
def test_leave_one_out_never_leaks(times):
    log = log_of(times)
    split = leave_one_out(log)
    check_no_leak(log, split)
    assert len(split.train.items.values) + len(split.valid) + len(split.test) == len(log)


@given(LOGS, st.integers(1, 4))
def test_chronological_never_leaks_and_follows_time(times, limit):
    log = log_of(times)
    split = chronological(log, limit)
    check_no_leak(log, split)
    samples = sum(max(len(row) - 1, 0) for row in times)
    cut = [int(0.8 * samples), int(0.9 * samples)]
    assert [len(split.valid), len(split.test)] == [cut[1] - cut[0], samples - cut[1]]
    trained = split.train.items.lengths - split.train.first_target
    assert trained.sum() == cut[0]
    targets = [item for row in split.train.items for item in row[1:]]
    parts = [
        log.times[np.asarray(part, np.int64)]
        for part in (targets, split.valid.targets.values, split.test.targets.values)
    ]
    for earlier, later in itertools.pairwise(parts):
        assert earlier.max(initial=-1) <= later.min(initial=99)
    assert split.test.history.lengths.max(initial=0) <= limit


def test_leave_one_out_by_hand():
    # User 0: items 0 1 2 3; user 1: items 4 5 (too short: all train); user 2: items 6 7 8; user 3: item 9.
    split = leave_one_out(log_of([[1, 2, 3, 4], [1, 2], [5, 6, 7], [9]]))
    assert as_lists(split.train.items) == [[0, 1], [4, 5], [6], [9]]
    assert split.train.first_target.tolist() == [1, 1, 1, 1]
    assert (split.valid.users.tolist(), as_lists(split.valid.history), split.valid.targets.values.tolist()) == (
        [0, 2],
        [[0, 1], [6]],
        [2, 7],
    )
    assert (as_lists(split.test.history), split.test.targets.values.tolist()) == ([[0, 1, 2], [6, 7]], [3, 8])
    assert split.counts == {"users_all_train": 2}


def test_chronological_by_hand():
    # Ten samples: targets at times 1..5 of user 0 and 2 4 6 8 9 of user 1 (items 7..11).
    split = chronological(log_of([[0, 1, 2, 3, 4, 5], [0, 2, 4, 6, 8, 9]]), history_limit=2)
    # Order: 1 2 2' 3 4 4' 5 6' | 8' | 9'  -> train has all of user 0 and user 1 up to time 6.
    assert as_lists(split.train.items) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
    assert (as_lists(split.valid.history), split.valid.targets.values.tolist()) == ([[8, 9]], [10])
    assert (as_lists(split.test.history), split.test.targets.values.tolist()) == ([[9, 10]], [11])


def test_chronological_needs_times():
    log = log_of([[1, 2, 3]])
    without = InteractionLog(log.users, log.items, None, None, log.catalog, log.user_ids)
    with pytest.raises(DataError, match="no timestamps"):
        chronological(without, 10)


def test_rows_out_of_order_are_sorted_and_ties_keep_the_source_order():
    log = log_of([[0, 0, 0], [0]])
    users, items, times = np.array([1, 0, 0, 0], np.int32), np.array([3, 2, 0, 1], np.int32), np.array([5, 9, 4, 4])
    ordered = sorted_log(users, items, times, None, log.catalog, log.user_ids)
    assert as_lists(ordered.by_user()) == [[0, 1, 2], [3]]
