"""Logs -> training sequences and the examples of valid and test.

A training sequence is cut from the log before a valid or test target is looked at: of every user it is a prefix, and it
ends before the user's first held-out target. So nothing that is made from training sequences can see one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.data.dataset import Examples, Sequences
from recrl.data.log import InteractionLog
from recrl.data.ragged import Ragged
from recrl.errors import DataError


@dataclass(frozen=True)
class Split:
    """``counts`` says how users and samples fell; ``positions`` where in its user's sequence every target stands."""

    train: Sequences
    valid: Examples
    test: Examples
    positions: dict[str, NDArray[np.int64]]
    counts: dict[str, Any]


def leave_one_out(log: InteractionLog) -> Split:
    """Last interaction = test target, the one before = valid target, the rest = train (papers.md F).

    Users of fewer than three interactions are all train, and so are those that the log names. Histories are stored
    whole; the limit is applied to prompts.
    """
    rows = log.by_user()
    lengths = rows.lengths
    split = (lengths >= 3) & (np.arange(len(lengths)) < len(lengths) - log.train_only)
    held_out = np.flatnonzero(split)
    train_lengths = np.where(split, lengths - 2, lengths)
    present = np.flatnonzero(train_lengths > 0)
    begins = rows.offsets[:-1]
    train = Sequences(
        present.astype(np.int32),
        rows.windows(begins[present], train_lengths[present]),
        np.ones(len(present), np.int32),
    )
    positions = {name: lengths[held_out] - back for name, back in (("valid", 2), ("test", 1))}
    valid, test = (_examples(rows, held_out, at, None) for at in positions.values())
    return Split(train, valid, test, positions, {"users_all_train": int(len(present) - len(held_out))})


def chronological(log: InteractionLog, history_limit: int) -> Split:
    """Sliding samples (history -> next), ordered by (target time, user, position), cut at int(.8N) and int(.9N).

    Within a user targets are in order of time, so the train part of a user is a prefix of the sequence. Histories of
    valid and test hold the last ``history_limit`` items (papers.md F). A user without a train sample gives no training
    sequence.

    Raises:
        DataError: the source has no times, or users of whom nothing may be held out.
    """
    if log.train_only:
        raise DataError(
            f"{log.train_only} users are for training alone",
            why="a chronological split holds the latest samples of all users out",
            fix="use --split leave-one-out, or leave the extra interactions out",
        )
    if log.times is None:
        raise DataError(
            "the source has no timestamps",
            why="a chronological split orders all samples by time",
            fix="use --split leave-one-out",
        )
    rows = log.by_user()
    position = np.arange(len(log)) - rows.offsets[log.users]
    targets = np.flatnonzero(position >= 1)
    targets = targets[np.lexsort((position[targets], log.users[targets], log.times[targets]))]
    first, second = int(0.8 * len(targets)), int(0.9 * len(targets))
    train_targets = np.bincount(log.users[targets[:first]], minlength=len(rows))
    present = np.flatnonzero(train_targets)
    train = Sequences(
        present.astype(np.int32),
        rows.windows(rows.offsets[present], train_targets[present] + 1),
        np.ones(len(present), np.int32),
    )
    parts = {"valid": targets[first:second], "test": targets[second:]}
    valid, test = (_examples(rows, log.users[part], position[part], history_limit) for part in parts.values())
    counts = {
        "samples": len(targets),
        "samples_train": first,
        "users_without_train": int((rows.lengths > 0).sum() - len(present)),
    }
    return Split(train, valid, test, {name: position[part] for name, part in parts.items()}, counts)


def _examples(rows: Ragged, users: NDArray[Any], position: NDArray[np.int64], limit: int | None) -> Examples:
    """Predict ``position[i]`` of user ``users[i]`` from the ``limit`` items before it (None: all)."""
    length = position if limit is None else np.minimum(position, limit)
    at = rows.offsets[users] + position
    targets = rows.windows(at, np.ones(len(at), np.int64))
    return Examples.plain(users.astype(np.int32), rows.windows(at - length, length), targets)
