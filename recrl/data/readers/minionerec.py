"""MiniOneRec's own files: sliding samples that come split, with their SIDs.

    train/<name>_*.csv  valid/<name>_*.csv  test/<name>_*.csv
    index/<name>.index.json   {"0": ["<a_236>", "<b_231>", "<c_226>"], ...}
    index/<name>.item.json    {"0": {"title", "description", "brand", "categories"}, ...}
    info/<name>_*.txt         SID, title and item id, separated by tabs (optional; checked against the index)

The CSV columns that are read: ``user_id``, ``history_item_id`` (the text of a Python list of ints), ``item_id``. The
train folder may be missing: the data set then has no training rows, and its summary says so.
"""

from __future__ import annotations

import ast
import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recrl.data.dataset import Catalog, Dataset, Examples, Sequences
from recrl.data.log import BadRows
from recrl.data.ragged import Ragged
from recrl.data.readers.lines import filled, source_folder, text_lines
from recrl.errors import DataError
from recrl.parts import Options, Part

COLUMNS = ("user_id", "history_item_id", "item_id")
MAX_CELL_CHARS = 1 << 24


class MiniOneRecOptions(Options):
    name: str = ""
    """The data set's name (``Industrial_and_Scientific``), where the folder holds several."""


@dataclass
class _Rows:
    """Samples of one CSV."""

    users: list[int] = field(default_factory=list)
    history: list[list[int]] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)


def read(source: Path | None, options: MiniOneRecOptions, bad_rows: BadRows) -> Dataset:
    """The whole data set; rows keep their order.

    Raises:
        DataError: a file is missing or broken, or a row can't be used.
    """
    source = source_folder(source)
    items = _one(source, "index", options.name, ".item.json")
    index = _one(source, "index", options.name, ".index.json")
    assert items is not None
    assert index is not None
    catalog = _catalog(items, index)
    info = _one(source, "info", options.name, ".txt", optional=True)
    if info is not None:
        _check_info(info, catalog, bad_rows)
    number = {item_id: row for row, item_id in enumerate(catalog.item_ids)}
    users: dict[str, int] = {}
    parts: dict[str, _Rows] = {}
    for name in ("train", "valid", "test"):
        path = _one(source, name, options.name, ".csv", optional=name == "train")
        parts[name] = _Rows() if path is None else _read_rows(path, number, users, bad_rows)
    train = parts["train"]
    sequences = Sequences(
        np.asarray(train.users, np.int32),
        Ragged.from_lists([[*row, target] for row, target in zip(train.history, train.targets, strict=True)]),
        np.asarray([len(row) for row in train.history], np.int32),
    )
    limit = max((len(row) for part in parts.values() for row in part.history), default=1)
    return Dataset(
        catalog,
        list(users),
        sequences,
        Examples.empty(),
        _examples(parts["valid"]),
        _examples(parts["test"]),
        {"history_limit": limit},
    )


def _examples(rows: _Rows) -> Examples:
    targets = Ragged.from_lists([[target] for target in rows.targets])
    return Examples.plain(np.asarray(rows.users, np.int32), Ragged.from_lists(rows.history), targets)


def _one(source: Path, folder: str, name: str, suffix: str, *, optional: bool = False) -> Path | None:
    """The only file of a kind, or None where it may be missing."""
    found = sorted(path for path in (source / folder).glob(f"{name}*{suffix}"))
    if len(found) == 1:
        return found[0]
    if not found and optional:
        return None
    what = ", ".join(path.name for path in found) or "no such file"
    raise DataError(
        f"{source / folder}: {what} for *{suffix}" + (f" of {name!r}" if name else ""),
        why="the minionerec reader needs exactly one",
        fix="pass -O name=NAME to choose" if found else "check the folder's layout: index/ info/ train/ valid/ test/",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads("\n".join(line for _, line in text_lines(path)))
    except ValueError as error:
        raise DataError(f"{path} is not JSON", why=str(error), fix="fetch the file again") from None
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} holds no object of items", why="items are keyed by their id", fix="check the file")
    return content


def _catalog(items_path: Path, index_path: Path) -> Catalog:
    items, index = _read_json(items_path), _read_json(index_path)
    if set(items) != set(index):
        odd = sorted(set(items) ^ set(index))
        raise DataError(
            f"{items_path.name} and {index_path.name} differ in {len(odd)} items, the first is {odd[0]!r}",
            why="every item needs a text and a SID",
            fix="take both files from the same build",
        )
    wrong = next((key for key in items if not key.isdecimal() or not isinstance(items[key], dict)), None)
    if wrong is not None:
        raise DataError(f"{items_path}: item {wrong!r}", why="ids are integers and items objects", fix="check the file")
    ids = sorted(items, key=int)
    broken = next((key for key in ids if not _is_sid(index[key])), None)
    if broken is not None:
        raise DataError(
            f"{index_path}: item {broken}: {index[broken]!r}", why="a SID is a list of tokens", fix="check it"
        )
    rows = [items[key] for key in ids]
    return Catalog(
        item_ids=ids,
        titles=[_plain(row.get("title")) for row in rows],
        descriptions=[_plain(row.get("description")) for row in rows],
        brands=[_plain(row.get("brand")) for row in rows],
        categories=[_plain(row.get("categories")) for row in rows],
        sids=[tuple(index[key]) for key in ids],
    )


def _is_sid(tokens: Any) -> bool:
    return isinstance(tokens, list) and bool(tokens) and all(isinstance(token, str) and token for token in tokens)


def _plain(value: Any) -> str:
    """Text on one line; a description may be the text of a Python list of paragraphs."""
    text = value if isinstance(value, str) else ""
    if text.startswith("[") and text.endswith("]"):
        try:
            parts = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            parts = [text]  # a title may well start with a bracket
        text = " ".join(part for part in parts if isinstance(part, str))
    return " ".join(text.split())


def _check_info(path: Path, catalog: Catalog, bad_rows: BadRows) -> None:
    assert catalog.sids is not None
    sids = {item_id: "".join(sid) for item_id, sid in zip(catalog.item_ids, catalog.sids, strict=True)}
    for number, line in text_lines(path):
        fields = line.split("\t")
        if len(fields) != 3:
            bad_rows.add(path, number, "not three fields", f"{len(fields)}")
        elif fields[2] not in sids:
            bad_rows.add(path, number, "item not in the index", f"item {fields[2]}")
        elif fields[0] != sids[fields[2]]:
            bad_rows.add(path, number, "SID differs from the index", f"{fields[0]}, not {sids[fields[2]]}")


def _read_rows(path: Path, number: dict[str, int], users: dict[str, int], bad_rows: BadRows) -> _Rows:
    rows = _Rows()
    before = csv.field_size_limit(MAX_CELL_CHARS)
    try:
        table = csv.DictReader(line + "\n" for _, line in text_lines(path))
        missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
        if missing:
            raise DataError(
                f"{path} has no column {missing[0]}", why=f"it needs {', '.join(COLUMNS)}", fix="check the header"
            )
        for row in table:
            history = _history(row["history_item_id"])
            problem = _problem(row, history, number)
            if problem or history is None:
                bad_rows.add(path, table.line_num, *(problem or ("history_item_id is not a list of integers", "")))
                continue
            rows.users.append(users.setdefault(row["user_id"], len(users)))
            rows.history.append([number[str(item)] for item in history])
            rows.targets.append(number[row["item_id"]])
    except csv.Error as error:
        raise DataError(f"{path} is not CSV", why=str(error), fix="fetch the file again") from None
    finally:
        csv.field_size_limit(before)
    filled(path, len(rows.users))
    return rows


def _history(cell: str | None) -> list[int] | None:
    """A list of ints from its text (``literal_eval`` runs nothing), or None."""
    try:
        values = ast.literal_eval((cell or "").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return values if isinstance(values, list) and all(type(value) is int for value in values) else None


def _problem(row: dict[str, Any], history: list[int] | None, number: dict[str, int]) -> tuple[str, str] | None:
    if None in row or None in row.values():
        return "wrong number of fields", ""
    if history is None:
        return "history_item_id is not a list of integers", row["history_item_id"][:40]
    if not history:
        return "empty history", f"user {row['user_id']}"
    unknown = next((item for item in (*map(str, history), row["item_id"]) if item not in number), None)
    return None if unknown is None else ("item not in the item file", f"item {unknown}")


READER = Part(MiniOneRecOptions, read, "AkaliKong/MiniOneRec@81b4ba9")
