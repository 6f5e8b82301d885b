"""A prepared data set: the catalogue, the training sequences, and the examples of valid and test.

On disk it is a folder of parquet files and one ``dataset.json``. Training code is handed ``train`` and
``train_examples`` only; they hold no valid or test target, because the split is made before anything is written (see
``splits.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recrl.data.ragged import Ragged
from recrl.errors import DataError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Catalog:
    """The items; everywhere else an item is its row here (``item index``, from 0).

    Attributes:
        item_ids: the source's own ids, as text, unique.
        categories: second-level category of every item, "" where the source has none.
        sids: the source's own semantic IDs as token strings (``("<a_1>", "<b_2>", "<c_3>")``), or None.
    """

    item_ids: list[str]
    titles: list[str]
    descriptions: list[str]
    brands: list[str]
    categories: list[str]
    sids: list[tuple[str, ...]] | None = None

    def __len__(self) -> int:
        return len(self.item_ids)

    def text(self, item: int) -> str:
        """Title, brand and description in one line, for text encoders."""
        parts = (self.titles[item], self.brands[item], self.descriptions[item])
        return ". ".join(part for part in parts if part)


@dataclass(frozen=True)
class Sequences:
    """Training sequences: row ``i`` is ``items[i]``, and the entries from ``first_target[i]`` on are targets.

    A user's whole history has ``first_target`` 1; a sliding sample (history, target) has ``len(history)``.
    """

    users: NDArray[np.int32]
    items: Ragged
    first_target: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.items)

    def select(self, rows: NDArray[np.int64]) -> Sequences:
        """The named rows, in the order named."""
        return Sequences(self.users[rows], self.items.select(rows), self.first_target[rows])

    def select_some(self, rows: NDArray[np.int64]) -> Sequences:
        """The named rows, an empty one in place of every -1."""
        if not len(self):
            empty = Ragged(self.items.values, np.zeros(len(rows) + 1, np.int64))
            return Sequences(np.full(len(rows), -1, np.int32), empty, np.ones(len(rows), np.int32))
        chosen = self.select(np.maximum(rows, 0))
        lengths = chosen.items.lengths
        items = chosen.items.cut(np.zeros_like(lengths), np.where(rows >= 0, lengths, 0))
        return Sequences(chosen.users, items, chosen.first_target)


@dataclass(frozen=True)
class Examples:
    """One prompt a row, with its targets.

    Attributes:
        users: [rows] int32.
        history: items before the target, oldest first.
        targets: one item, or a set of up to ten.
        tasks: the task's name, "next" for plain next-item prediction.
        prompts: text of the prompt with items written as ``<|item:INDEX|>``, or "" where the template writes it.
        labels: [rows] int8; 1 / 0 for label prediction (then ``targets`` holds the candidate), -1 elsewhere.
    """

    users: NDArray[np.int32]
    history: Ragged
    targets: Ragged
    tasks: list[str]
    prompts: list[str]
    labels: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def plain(cls, users: NDArray[np.int32], history: Ragged, targets: Ragged) -> Examples:
        """Next-item examples without text of their own."""
        rows = len(users)
        return cls(users, history, targets, ["next"] * rows, [""] * rows, np.full(rows, -1, np.int8))

    @classmethod
    def empty(cls) -> Examples:
        return cls.plain(np.zeros(0, np.int32), Ragged.from_lists([]), Ragged.from_lists([]))

    @classmethod
    def join(cls, parts: Sequence[Examples]) -> Examples:
        """Concatenated, in order."""
        return cls(
            np.concatenate([part.users for part in parts]),
            Ragged.join([part.history for part in parts]),
            Ragged.join([part.targets for part in parts]),
            [task for part in parts for task in part.tasks],
            [prompt for part in parts for prompt in part.prompts],
            np.concatenate([part.labels for part in parts]),
        )

    def select(self, rows: NDArray[np.int64]) -> Examples:
        return Examples(
            self.users[rows],
            self.history.select(rows),
            self.targets.select(rows),
            [self.tasks[row] for row in rows],
            [self.prompts[row] for row in rows],
            self.labels[rows],
        )


@dataclass(frozen=True)
class Dataset:
    """See the module. ``meta`` is what ``dataset.json`` holds: format, source, split, counts, summary, optimum."""

    catalog: Catalog
    user_ids: list[str]
    train: Sequences
    train_examples: Examples
    valid: Examples
    test: Examples
    meta: dict[str, Any] = field(default_factory=dict)

    def split(self, name: str) -> Examples:
        """``valid`` or ``test``."""
        return {"valid": self.valid, "test": self.test}[name]


def save(dataset: Dataset, folder: Path) -> None:
    """Write every file of the data set into an existing, empty folder."""
    catalog = dataset.catalog
    columns: dict[str, Any] = {
        "item_id": catalog.item_ids,
        "title": catalog.titles,
        "description": catalog.descriptions,
        "brand": catalog.brands,
        "category": catalog.categories,
    }
    if catalog.sids is not None:
        columns["sid"] = [list(sid) for sid in catalog.sids]
    pq.write_table(pa.table(columns), folder / "items.parquet")
    pq.write_table(pa.table({"user_id": pa.array(dataset.user_ids, pa.string())}), folder / "users.parquet")
    train = dataset.train
    table = pa.table({"user": train.users, "items": _lists(train.items), "first_target": train.first_target})
    pq.write_table(table, folder / "train.parquet")
    for name, examples in _examples(dataset):
        pq.write_table(_examples_table(examples), folder / f"{name}.parquet")
    meta = dataset.meta | {"version": FORMAT_VERSION, "fingerprint": fingerprint(dataset)}
    (folder / "dataset.json").write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n")


def load(folder: Path) -> Dataset:
    """Read a prepared data set.

    Raises:
        DataError: a file is missing or broken, or the folder was written by another version.
    """
    fix = "write it with `recrl data prepare`"
    try:
        meta = json.loads((folder / "dataset.json").read_text())
    except FileNotFoundError:
        raise DataError(f"no prepared data set at {folder}", why="dataset.json is not there", fix=fix) from None
    except ValueError as error:
        raise DataError(f"{folder / 'dataset.json'} is broken", why=str(error), fix=fix) from None
    version = meta.get("version") if isinstance(meta, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{folder / 'dataset.json'} has format version {version}", why=f"this recrl reads {FORMAT_VERSION}", fix=fix
        )
    items = _read(folder / "items.parquet", "item_id", "title", "description", "brand", "category").to_pydict()
    train = _read(folder / "train.parquet", "user", "items", "first_target")
    sids = [tuple(sid) for sid in items["sid"]] if "sid" in items else None
    dataset = Dataset(
        Catalog(items["item_id"], items["title"], items["description"], items["brand"], items["category"], sids),
        _read(folder / "users.parquet", "user_id")["user_id"].to_pylist(),
        Sequences(_numpy(train, "user"), _ragged(train, "items"), _numpy(train, "first_target")),
        _read_examples(folder / "train_examples.parquet"),
        _read_examples(folder / "valid.parquet"),
        _read_examples(folder / "test.parquet"),
        meta,
    )
    if fingerprint(dataset) != meta.get("fingerprint"):
        why = "its items or training sequences do not match the fingerprint in dataset.json"
        raise DataError(f"the data set at {folder} is broken", why=why, fix=fix)
    return dataset


def fingerprint(dataset: Dataset) -> str:
    """A hash of the item ids and the training sequences: what SIDs and models are bound to."""
    digest = hashlib.sha256("\n".join(dataset.catalog.item_ids).encode())
    digest.update(dataset.train.items.values.tobytes())
    digest.update(dataset.train.items.offsets.tobytes())
    return digest.hexdigest()[:16]


def _examples(dataset: Dataset) -> Sequence[tuple[str, Examples]]:
    return ("train_examples", dataset.train_examples), ("valid", dataset.valid), ("test", dataset.test)


def _lists(rows: Ragged) -> pa.Array:
    kind = pa.large_list(pa.int32())
    return pa.LargeListArray.from_arrays(pa.array(rows.offsets), pa.array(rows.values, pa.int32()), type=kind)


def _examples_table(examples: Examples) -> pa.Table:
    return pa.table(
        {
            "user": examples.users,
            "history": _lists(examples.history),
            "targets": _lists(examples.targets),
            "task": pa.array(examples.tasks, pa.string()),
            "prompt": pa.array(examples.prompts, pa.string()),
            "label": examples.labels,
        }
    )


def _read_examples(path: Path) -> Examples:
    table = _read(path, "user", "history", "targets", "task", "prompt", "label")
    return Examples(
        _numpy(table, "user"),
        _ragged(table, "history"),
        _ragged(table, "targets"),
        table["task"].to_pylist(),
        table["prompt"].to_pylist(),
        _numpy(table, "label"),
    )


def _read(path: Path, *columns: str) -> pa.Table:
    """A table that holds at least ``columns``."""
    fix = "prepare the data again"
    try:
        table = pq.read_table(path)
    except (FileNotFoundError, pa.ArrowInvalid, OSError) as error:
        raise DataError(f"can't read {path}", why=str(error).splitlines()[0], fix=fix) from None
    missing = set(columns) - set(table.column_names)
    if missing:
        raise DataError(f"{path} lacks a column", why=f"{', '.join(sorted(missing))} should be there", fix=fix)
    return table


def _numpy(table: pa.Table, column: str) -> NDArray[Any]:
    return np.array(table[column].to_numpy())


def _ragged(table: pa.Table, column: str) -> Ragged:
    lists = table[column].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):  # a table of no rows has no chunk to combine
        return Ragged.from_lists([])
    offsets = np.asarray(lists.offsets, np.int64)
    return Ragged(np.asarray(lists.values, np.int32), offsets)
