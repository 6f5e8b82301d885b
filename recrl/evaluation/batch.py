"""Items for many users: a file of histories in, a parquet file of ranked items out, shared out over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recrl.backends.decoder_policy import DecoderPolicy
from recrl.data.dataset import Examples
from recrl.data.ragged import Ragged
from recrl.errors import UserError
from recrl.evaluation.recommend import check_k, ranked_new
from recrl.evaluation.subjects import Subject
from recrl.ranking.rank import Ranking
from recrl.run_data import RunData, load_run_data

AT_ONCE = 8192
"""Users between two writes."""
SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("rank", pa.int32()),
        ("item", pa.string()),
        ("title", pa.string()),
        ("score", pa.float32()),
        ("sid", pa.string()),
    ]
)


@dataclass(frozen=True)
class Users:
    """Histories of users, oldest item first."""

    names: list[str]
    histories: Ragged

    def __len__(self) -> int:
        return len(self.names)


def recommend_users(subject: Subject, users: Path, out: Path, k: int) -> int:
    """Write the ``k`` most probable items of every user to a parquet file, a row an item; how many users there were.

    All ranks have to call together; the first one writes, and ``out`` is whole or not there.

    Args:
        users: a parquet file with the columns ``user`` and ``history`` (a list of item ids), or text: a line a user,
            first the user and then the ids of the items.

    Raises:
        UserError: a file that can't be read or written, an item that the catalogue does not have, an empty history.
    """
    if out.exists():
        raise UserError(f"{out} exists already", why="it would be replaced", fix="choose another --out")
    world, policy = load_run_data(subject.config, subject.model)
    check_k(k, subject.config, len(world.dataset.catalog))
    known = read_users(users, {item: place for place, item in enumerate(world.dataset.catalog.item_ids)})
    beside = out.with_name(f".{out.name}.tmp")
    try:
        with pq.ParquetWriter(beside, SCHEMA) if world.ranks.is_first else nullcontext() as writer:
            for rows, found in _rankings(subject, world, policy, known, k):
                if writer is not None:
                    writer.write_table(_table(world, [known.names[row] for row in rows], found))
        if world.ranks.is_first:
            beside.replace(out)
    except OSError as error:
        raise UserError(
            f"can't write {out}", why=error.strerror or str(error), fix="choose a place that you may write"
        ) from None
    finally:
        if world.ranks.is_first:
            beside.unlink(missing_ok=True)
    return len(known)


def _rankings(
    subject: Subject, world: RunData, policy: DecoderPolicy, users: Users, k: int
) -> Iterator[tuple[range, Ranking]]:
    for begin in range(0, len(users), AT_ONCE):
        rows = range(begin, min(begin + AT_ONCE, len(users)))
        histories = users.histories.select(np.asarray(rows))
        nobody, nothing = np.zeros(len(rows), np.int32), Ragged.from_lists([[0]] * len(rows))
        yield rows, ranked_new(subject.config, world, policy, Examples.plain(nobody, histories, nothing), k)


def _table(world: RunData, names: list[str], found: Ranking) -> pa.Table:
    row, place = np.nonzero(found.items >= 0)
    items = found.items[row, place]
    catalog = world.dataset.catalog
    columns = {
        "user": [names[user] for user in row],
        "rank": place + 1,
        "item": [catalog.item_ids[item] for item in items],
        "title": [catalog.titles[item] for item in items],
        "score": found.scores[row, place],
        "sid": ["".join(world.index.tokens(int(item))) for item in items],
    }
    return pa.table(columns, SCHEMA)


def read_users(path: Path, places: dict[str, int]) -> Users:
    """Histories as items of the catalogue, which ``places`` finds by their ids.

    Raises:
        UserError: the first user who can't be read, by name.
    """
    names, rows = [], []
    for user, history in _lines(path):
        if not history:
            raise UserError(
                f"{path}: user {user!r} has no history", why="there is nothing to go on", fix="leave the user out"
            )
        unknown = [item for item in history if item not in places]
        if unknown:
            raise UserError(
                f"{path}: user {user!r} took item {unknown[0]!r}, which is not in the catalogue",
                why=f"it has {len(places)} items",
                fix="leave the item out, or train on a catalogue that has it",
            )
        names.append(user)
        rows.append([places[item] for item in history])
    if not names:
        raise UserError(f"{path} names no user", why="it is empty", fix="write a line a user: USER ITEM ITEM ...")
    return Users(names, Ragged.from_lists(rows))


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path, columns=["user", "history"])
            for row in table.to_pylist():
                yield str(row["user"]), [str(item) for item in row["history"] or []]
        else:
            for line in path.read_text(encoding="utf-8").splitlines():
                words = line.split()
                if words:
                    yield words[0], words[1:]
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid, KeyError) as error:
        raise UserError(
            f"can't read {path}",
            why=str(error).splitlines()[0],
            fix="give parquet with the columns user and history, or text: a line a user, USER ITEM ITEM ...",
        ) from None


def about(subject: Subject, users: int, k: int, out: Path) -> dict[str, Any]:
    """What was done, for machines."""
    return {"checkpoint": str(subject.model.parent), "users": users, "k": k, "out": str(out)}
