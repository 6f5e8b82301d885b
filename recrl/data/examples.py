"""Training sequences as examples: a history, and what is asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recrl.data.dataset import Examples, Sequences
from recrl.data.ragged import Ragged


def windows(sequences: Sequences, limit: int) -> Sequences:
    """Cut rows longer than ``limit + 1`` items into windows that overlap by half, every target scored once."""
    lengths = sequences.items.lengths
    stride = max(1, limit // 2)
    over = np.maximum(lengths - (limit + 1), 0)
    count = 1 + -(-over // stride)
    row = np.repeat(np.arange(len(lengths)), count)
    number = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    stop = np.minimum(limit + 1 + number * stride, lengths[row])
    start = np.maximum(stop - (limit + 1), 0)
    scored_before = np.where(number > 0, limit + 1 + (number - 1) * stride, sequences.first_target[row])
    first = np.maximum(scored_before - start, np.maximum(sequences.first_target[row] - start, 1))
    keep = first < stop - start
    row, start, stop, first = row[keep], start[keep], stop[keep], first[keep]
    items = sequences.items.select(row).cut(start, stop)
    return Sequences(sequences.users[row], items, first.astype(np.int32))


def next_examples(sequences: Sequences, task: str, rng: np.random.Generator | None, count: int = 1) -> Examples:
    """One target of every training sequence, drawn among those that it may ask for, with the items before it.

    Args:
        rng: None takes the first of them.
        count: targets from that one on, in the order in which they were taken; fewer where the sequence ends.
    """
    lengths = sequences.items.lengths
    usable = with_target(sequences)
    first, length = sequences.first_target[usable].astype(np.int64), lengths[usable]
    drawn = np.zeros(len(usable)) if rng is None else rng.random(len(usable))
    place = first + (drawn * (length - first)).astype(np.int64)
    items = sequences.items.select(usable)
    examples = Examples.plain(
        sequences.users[usable],
        items.cut(np.zeros_like(place), place),
        items.cut(place, np.minimum(place + count, length)),
    )
    return replace(examples, tasks=[task] * len(usable))


def whole_examples(sequences: Sequences, task: str) -> Examples:
    """Every training sequence as a history; what comes after it is not known."""
    rows = len(sequences)
    examples = Examples.plain(sequences.users, sequences.items, Ragged.empty(rows))
    return replace(examples, tasks=[task] * rows)


def with_target(sequences: Sequences) -> NDArray[np.int64]:
    """Rows that hold a target: those that ``next_examples`` gives an example of, in its order."""
    return np.flatnonzero(sequences.items.lengths > sequences.first_target)


def filled(examples: Examples, category: NDArray[np.int32], count: int, rng: np.random.Generator) -> Examples:
    """Shorter labels go on with items of their last one's category, drawn from those that the user has not taken."""
    alike = {kind: np.flatnonzero(category == kind) for kind in set(category.tolist()) - {-1}}
    labels = []
    for history, targets in zip(examples.history, examples.targets, strict=True):
        free = np.zeros(0, np.int64)
        if len(targets) < count:
            same = alike.get(int(category[targets[-1]]), free)
            free = np.setdiff1d(same, np.concatenate([history, targets]))
        drawn = rng.permutation(free)[: count - len(targets)]
        labels.append([*targets.tolist(), *drawn.tolist()])
    return replace(examples, targets=Ragged.from_lists(labels))


def item_examples(items: int, task: str) -> Examples:
    """One example an item, for the tasks that translate between an item's SID and its text."""
    targets = Ragged(np.arange(items, dtype=np.int32), np.arange(items + 1, dtype=np.int64))
    users = np.full(items, -1, np.int32)
    return Examples(users, Ragged.empty(items), targets, [task] * items, [""] * items, np.full(items, -1, np.int8))
