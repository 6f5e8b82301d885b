"""Amazon reviews, in either of two forms, told apart by the files in the folder.

- ``sequences.txt`` (``user item item ...`` a line, oldest first) and ``items.jsonl`` (one JSON object a line: ``id``,
  ``title``; and where present ``brand``, ``l2``, ``categories``, ``description``). No timestamps: an order only.
- McAuley's raw JSON lines of 2014 or 2018: see ``amazon_raw.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from recrl.data.dataset import Catalog
from recrl.data.log import BadRows, InteractionLog, k_core, restrict
from recrl.data.readers.amazon_raw import read_raw
from recrl.data.readers.lines import filled, source_folder, text_lines
from recrl.errors import ConfigError, DataError
from recrl.parts import Options, Part


class AmazonOptions(Options):
    min_core: int | None = Field(None, ge=1)
    """Iterative k-core. Default: 5 for raw reviews, none for sequences.txt, which is filtered already."""
    missing_title: Literal["keep", "drop", "refuse"] = "keep"
    """Items without a title: keep (and count), drop them before the k-core (MiniOneRec's title filter), or stop."""
    drop_repeats: bool = False
    """Raw reviews: keep the first of rows with the same user, item and time."""


def read(source: Path | None, options: AmazonOptions, bad_rows: BadRows) -> InteractionLog:
    """The log of a folder.

    Raises:
        ConfigError: an option that sequences.txt can't follow.
        DataError: a file is missing or broken, or a row can't be used.
    """
    source = source_folder(source)
    raw = not (source / "sequences.txt").exists()
    if options.drop_repeats and not raw:
        raise ConfigError(
            "drop_repeats with sequences.txt", why="it has no times to tell repeats by", fix="leave it out"
        )
    log = read_raw(source, bad_rows, drop_repeats=options.drop_repeats) if raw else _read_sequences(source, bad_rows)
    log = _title_policy(log, options.missing_title, source)
    core = options.min_core or (5 if raw else None)
    if core is not None:
        log = k_core(log, core)
        log.notes["min_core"] = core
    return log


def _title_policy(log: InteractionLog, policy: str, source: Path) -> InteractionLog:
    titled = np.array([bool(title) for title in log.catalog.titles], bool)
    missing = int((~titled).sum())
    if missing and policy == "refuse":
        first = log.catalog.item_ids[int(np.flatnonzero(~titled)[0])]
        raise DataError(
            f"{source}: {missing} items have no title, the first is item {first}",
            why="missing_title = refuse",
            fix="pass -O missing_title=keep or -O missing_title=drop",
        )
    log.notes["items_without_title"] = missing
    log.notes["missing_title"] = policy
    return restrict(log, titled[log.items], titled) if missing and policy == "drop" else log


def _read_sequences(source: Path, bad_rows: BadRows) -> InteractionLog:
    catalog = _read_items(source / "items.jsonl", bad_rows)
    index = {item_id: row for row, item_id in enumerate(catalog.item_ids)}
    path = source / "sequences.txt"
    user_ids: dict[str, int] = {}
    items: list[int] = []
    lengths: list[int] = []
    for number, line in text_lines(path):
        user, *sequence = line.split() or [""]
        unknown = next((item for item in sequence if item not in index), None)
        if not user:
            bad_rows.add(path, number, "blank line")
        elif not sequence:
            bad_rows.add(path, number, "a user without items", f"user {user}")
        elif user in user_ids:
            bad_rows.add(path, number, "a second line for the same user", f"user {user}")
        elif unknown is not None:
            reason = "item not in items.jsonl" if unknown.isdecimal() else "item id is not an integer"
            bad_rows.add(path, number, reason, f"item {unknown}")
        else:
            user_ids[user] = len(user_ids)
            items.extend(index[item] for item in sequence)
            lengths.append(len(sequence))
    filled(path, len(user_ids))
    users = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return InteractionLog(users, np.asarray(items, np.int32), None, None, catalog, list(user_ids))


def _read_items(path: Path, bad_rows: BadRows) -> Catalog:
    rows: dict[str, dict[str, Any]] = {}
    for number, line in text_lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            bad_rows.add(path, number, "not JSON", str(error))
            continue
        problem = _problem(row)
        if problem:
            bad_rows.add(path, number, *problem)
        elif str(row["id"]) in rows:
            bad_rows.add(path, number, "duplicate item id", f"id {row['id']}")
        else:
            rows[str(row["id"])] = row
    filled(path, len(rows))
    kept = rows.values()
    return Catalog(
        item_ids=list(rows),
        titles=[_text(row, "title") for row in kept],
        descriptions=[_text(row, "description") or " > ".join(row.get("categories") or ()) for row in kept],
        brands=[_text(row, "brand") for row in kept],
        categories=[_text(row, "l2") or "".join((row.get("categories") or ())[1:2]) for row in kept],
    )


def _problem(row: Any) -> tuple[str, str] | None:
    """Why an item's row can't be used, in two parts for ``BadRows.add``."""
    if not isinstance(row, dict):
        return "not a JSON object", type(row).__name__
    number = row.get("id")
    if isinstance(number, bool) or not (isinstance(number, int) or (isinstance(number, str) and number.isdecimal())):
        return "item id is not an integer", f"id {number!r}"
    for key in ("title", "brand", "l2", "description"):
        if not isinstance(row.get(key), str | None):
            return "a field has the wrong type", f"{key} = {row[key]!r}"
    path = row.get("categories")
    if path is not None and not (isinstance(path, list) and all(isinstance(name, str) for name in path)):
        return "a field has the wrong type", f"categories = {path!r}"
    return None


def _text(row: dict[str, Any], key: str) -> str:
    return (row.get(key) or "").strip()


READER = Part(AmazonOptions, read, "McAuley, Amazon review data 2014 and 2018")
