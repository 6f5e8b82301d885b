"""Source -> prepared data set on disk: read, split, summarise, write."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recrl.atomic import new_folder
from recrl.data.dataset import Dataset, Examples, save
from recrl.data.log import BadRows, InteractionLog
from recrl.data.readers import READERS
from recrl.data.splits import chronological, leave_one_out
from recrl.data.summary import summarise
from recrl.errors import ConfigError
from recrl.parts import Choice, resolve

SplitName = Literal["leave-one-out", "chronological"]
HISTORY_LIMITS: dict[str, int] = {"leave-one-out": 20, "chronological": 10}  # papers.md F
GIVEN_HISTORY_LIMIT = 10


def prepare(
    kind: str,
    source: Path | None,
    out: Path,
    *,
    split: SplitName | None = None,
    history_limit: int | None = None,
    options: Mapping[str, Any] | None = None,
    skip_bad_rows: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the data set of a source into ``out`` and return its ``dataset.json`` (``summary`` in it).

    Args:
        kind: a key of ``READERS``.
        source: file or folder; None for a reader that makes its data.
        split: default leave-one-out; not to be given where the source comes split.
        history_limit: items of history that a prompt shows; recorded, and applied to what the chronological split
            stores.
        options: of the reader.

    Raises:
        UserError: nothing is written.
    """
    if source is not None and source.resolve().is_relative_to(out.resolve()):
        raise ConfigError(
            f"{out} holds the source {source}", why="writing would delete it", fix="write to another place"
        )
    with new_folder(out, overwrite=overwrite) as folder:
        dataset = build(
            kind, source, split=split, history_limit=history_limit, options=options, skip_bad_rows=skip_bad_rows
        )
        start = time.perf_counter()
        save(dataset, folder)
        dataset.meta["summary"]["seconds"]["write"] = time.perf_counter() - start
    return dataset.meta


def build(
    kind: str,
    source: Path | None,
    *,
    split: SplitName | None = None,
    history_limit: int | None = None,
    options: Mapping[str, Any] | None = None,
    skip_bad_rows: bool = False,
) -> Dataset:
    """The same in memory, with its ``meta`` filled in."""
    part, checked = resolve(READERS, Choice(kind=kind, **(options or {})), where="data")
    if history_limit is not None and history_limit < 1:
        raise ConfigError(
            f"history limit {history_limit}", why="a prompt shows at least one item", fix="pass 1 or more"
        )
    bad_rows = BadRows(skip=skip_bad_rows)
    start = time.perf_counter()
    read = part.run(source, checked, bad_rows)
    read_s = time.perf_counter() - start
    start = time.perf_counter()
    dataset, interactions = _split(read, split, history_limit)
    split_s = time.perf_counter() - start
    summary = summarise(dataset, interactions)
    summary["skipped_rows"] = {
        "count": bad_rows.counts.total(),
        "reasons": dict(bad_rows.counts),
        "first": bad_rows.named,
    }
    summary["seconds"] = {"read": read_s, "split": split_s}
    origin = {
        "format": kind,
        "source": None if source is None else str(source),
        "options": checked.model_dump(mode="json"),
    }
    dataset.meta.update(origin | {"summary": summary})
    return dataset


def _split(read: InteractionLog | Dataset, split: SplitName | None, limit: int | None) -> tuple[Dataset, int | None]:
    if isinstance(read, Dataset):
        if split is not None:
            raise ConfigError(f"--split {split}", why="this format comes with its own split", fix="leave --split out")
        read.meta.update(
            {"split": "given", "history_limit": limit or read.meta.get("history_limit", GIVEN_HISTORY_LIMIT)}
        )
        return read, None
    name: SplitName = split or "leave-one-out"
    limit = limit or HISTORY_LIMITS[name]
    parts = leave_one_out(read) if name == "leave-one-out" else chronological(read, limit)
    meta: dict[str, Any] = {"split": name, "history_limit": limit, "split_counts": parts.counts, "notes": read.notes}
    if read.optimum is not None:
        held_out = {"valid": parts.valid, "test": parts.test}
        meta["optimum"] = {
            key: read.optimum(rows.users.astype(np.int64), parts.positions[key]) for key, rows in held_out.items()
        }
    dataset = Dataset(read.catalog, read.user_ids, parts.train, Examples.empty(), parts.valid, parts.test, meta)
    return dataset, len(read)
