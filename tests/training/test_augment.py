"""Augmentation moves and leaves out items of a row, and does nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recrl.data.dataset import Sequences
from recrl.data.ragged import Ragged
from recrl.training.augment import augment
from recrl.training_sections import AugmentSection

SHARE = st.sampled_from([0.0, 0.3, 0.9, 1.0])


@st.composite
def options(draw: st.DrawFn) -> AugmentSection:
    return AugmentSection(
        reverse=draw(SHARE),
        shuffle=draw(SHARE),
        shuffle_window=draw(st.integers(2, 6)),
        drop=draw(st.sampled_from([0.0, 0.3, 0.95])),
        crop=draw(SHARE),
    )


@st.composite
def drawn_sequences(draw: st.DrawFn) -> Sequences:
    """Rows of 1 to 12 places (every entry distinct), some of them sliding samples."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
    offsets = np.cumsum([0, *lengths])
    sliding = [draw(st.booleans()) and length > 2 for length in lengths]
    first = [length - 1 if slides else 1 for length, slides in zip(lengths, sliding, strict=True)]
    return Sequences(
        np.arange(len(lengths), dtype=np.int32) + 7,
        Ragged(np.arange(offsets[-1], dtype=np.int32), offsets.astype(np.int64)),
        np.array(first, np.int32),
    )


@given(drawn_sequences(), options(), st.integers(0, 5))
def test_items_are_only_moved_or_left_out_within_their_own_row(
    before: Sequences, chosen: AugmentSection, seed: int
) -> None:
    after = augment(before, chosen, np.random.default_rng(seed))
    assert after.users.tolist() == before.users.tolist()
    assert after.first_target.tolist() == before.first_target.tolist()
    assert len(after) == len(before)
    for old, new, first in zip(before.items, after.items, before.first_target, strict=True):
        assert not Counter(new.tolist()) - Counter(old.tolist())
        assert len(new) >= min(2, len(old))
        if first > 1:
            assert new.tolist() == old.tolist()


@given(drawn_sequences(), options(), st.integers(0, 5))
def test_a_seed_is_a_result(before: Sequences, chosen: AugmentSection, seed: int) -> None:
    first, again = (augment(before, chosen, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(first.items.values, again.items.values)
    assert np.array_equal(first.items.offsets, again.items.offsets)


def one_row(length: int, rows: int = 1) -> Sequences:
    items = Ragged(np.tile(np.arange(length, dtype=np.int32), rows), np.arange(rows + 1, dtype=np.int64) * length)
    return Sequences(np.arange(rows, dtype=np.int32), items, np.ones(rows, np.int32))


def test_nothing_asked_for_changes_nothing() -> None:
    before = one_row(5)
    assert augment(before, AugmentSection(), np.random.default_rng(0)) is before


def test_reverse_alone_reads_backwards() -> None:
    after = augment(one_row(6), AugmentSection(reverse=1.0), np.random.default_rng(0))
    assert after.items[0].tolist() == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("window", [2, 4])
def test_an_item_moves_less_than_the_window(window: int) -> None:
    after = augment(one_row(50, rows=40), AugmentSection(shuffle=1.0, shuffle_window=window), np.random.default_rng(1))
    moves = np.abs(after.items.values.reshape(40, 50) - np.arange(50))
    assert moves.max() == window - 1
    assert (np.sort(after.items.values.reshape(40, 50), axis=1) == np.arange(50)).all()


def test_the_shares_are_those_asked_for() -> None:
    rng = np.random.default_rng(2)
    dropped = augment(one_row(100, rows=200), AugmentSection(drop=0.2), rng)
    assert abs(len(dropped.items.values) / 20_000 - 0.8) < 0.012  # four standard errors
    turned = augment(one_row(10, rows=2000), AugmentSection(reverse=0.3), rng)
    share = np.mean([row[0] == 9 for row in turned.items])
    assert abs(share - 0.3) < 0.041


def test_a_crop_is_a_run_of_neighbours_of_every_size_and_place() -> None:
    after = augment(one_row(5, rows=4000), AugmentSection(crop=1.0), np.random.default_rng(3))
    runs = {tuple(row.tolist()) for row in after.items}
    assert runs == {tuple(range(begin, end)) for begin in range(4) for end in range(begin + 2, 6)}
