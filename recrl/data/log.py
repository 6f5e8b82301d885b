"""Interactions as the log-like readers give them: flat arrays, sorted by user, then by time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.data.dataset import Catalog
from recrl.data.ragged import Ragged
from recrl.errors import DataError

MAX_NAMED_BAD_ROWS = 20


@dataclass(frozen=True)
class InteractionLog:
    """Every interaction of every user, before the split. N interactions.

    Attributes:
        users: [N] int32 from 0, non-decreasing.
        items: [N] int32 rows of the catalogue; the order within a user is the order in time.
        times: [N] int64 in the source's unit, non-decreasing within a user; None where the source holds only an order.
        ratings: [N] float32, or None.
        user_ids: the source's own ids, as text, unique.
        notes: what the reader has to say about the source; it goes into ``dataset.json``.
        train_only: users at the end of whom nothing is held out.
        optimum: made data only: the best reachable metrics of predicting position ``p[i]`` of user ``u[i]``.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    times: NDArray[np.int64] | None
    ratings: NDArray[np.float32] | None
    catalog: Catalog
    user_ids: list[str]
    notes: dict[str, Any] = field(default_factory=dict)
    optimum: Callable[[NDArray[np.int64], NDArray[np.int64]], dict[str, Any]] | None = None
    train_only: int = 0

    def __len__(self) -> int:
        return len(self.users)

    def by_user(self) -> Ragged:
        """One row a user; shares memory with ``items``."""
        offsets = np.zeros(len(self.user_ids) + 1, np.int64)
        np.cumsum(np.bincount(self.users, minlength=len(self.user_ids)), out=offsets[1:])
        return Ragged(self.items, offsets)


def sorted_log(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    times: NDArray[np.int64],
    ratings: NDArray[np.float32] | None,
    catalog: Catalog,
    user_ids: list[str],
    notes: dict[str, Any] | None = None,
) -> InteractionLog:
    """A log from rows in any order. The sort is stable: equal times keep the order of the source."""
    order = np.lexsort((times, users))
    kept = None if ratings is None else ratings[order]
    return InteractionLog(users[order], items[order], times[order], kept, catalog, user_ids, notes or {})


def restrict(log: InteractionLog, keep: NDArray[np.bool_], keep_items: NDArray[np.bool_]) -> InteractionLog:
    """Some interactions ([N] bool) and some items ([items] bool), numbered anew; users without interactions go too."""
    assert keep_items[log.items[keep]].all()
    keep_users = np.bincount(log.users[keep], minlength=len(log.user_ids)) > 0
    user_number = (np.cumsum(keep_users) - 1).astype(np.int32)
    item_number = (np.cumsum(keep_items) - 1).astype(np.int32)
    return InteractionLog(
        user_number[log.users[keep]],
        item_number[log.items[keep]],
        None if log.times is None else log.times[keep],
        None if log.ratings is None else log.ratings[keep],
        select_items(log.catalog, np.flatnonzero(keep_items)),
        [log.user_ids[row] for row in np.flatnonzero(keep_users)],
        log.notes,
    )


def select_items(catalog: Catalog, rows: NDArray[np.int64]) -> Catalog:
    """The named items, in the order named."""
    return Catalog(
        item_ids=[catalog.item_ids[row] for row in rows],
        titles=[catalog.titles[row] for row in rows],
        descriptions=[catalog.descriptions[row] for row in rows],
        brands=[catalog.brands[row] for row in rows],
        categories=[catalog.categories[row] for row in rows],
        sids=None if catalog.sids is None else [catalog.sids[row] for row in rows],
    )


def k_core(log: InteractionLog, core: int) -> InteractionLog:
    """Take away users and items of fewer than ``core`` interactions, again and again until none is left.

    Raises:
        DataError: nothing remains.
    """
    keep = np.ones(len(log), bool)
    num_users, num_items = len(log.user_ids), len(log.catalog)
    while True:
        per_user = np.bincount(log.users[keep], minlength=num_users)
        per_item = np.bincount(log.items[keep], minlength=num_items)
        narrowed = keep & (per_user[log.users] >= core) & (per_item[log.items] >= core)
        if narrowed.sum() == keep.sum():
            break
        keep = narrowed
    if not keep.any():
        why = f"no set of users and items has {core} interactions each among themselves"
        raise DataError(
            f"the {core}-core of {len(log)} interactions is empty", why=why, fix="pass a smaller --min-core"
        )
    return restrict(log, keep, np.bincount(log.items[keep], minlength=num_items) > 0)


class BadRows:
    """What a reader does with a row that it can't use: refuse it, or (``skip``) count it and name the first few."""

    def __init__(self, *, skip: bool = False) -> None:
        self.skip = skip
        self.counts: Counter[str] = Counter()
        self.named: list[str] = []

    def add(self, path: Path, line: int, reason: str, detail: str = "") -> None:
        """Report line ``line`` (from 1) of a file; ``reason`` is one of few fixed phrases, ``detail`` what was found.

        Raises:
            DataError: bad rows are refused.
        """
        found = f"{path}, line {line}: {reason}" + (f" ({detail})" if detail else "")
        if not self.skip:
            raise DataError(
                found,
                why="the row can't be used",
                fix="correct it, or pass --skip-bad-rows to count and leave out such rows",
            )
        self.counts[reason] += 1
        if len(self.named) < MAX_NAMED_BAD_ROWS:
            self.named.append(found)
