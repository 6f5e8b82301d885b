"""OpenOneRec's RecIF parquet: chat messages whose items are SIDs in the text.

Files, in the folder itself or in a subfolder (the benchmark's ``video/video_test.parquet``, the training scripts'
``sft_video_rec.parquet``): ``{task}_test``, ``{task}_train``, ``{task}_rec_train``, ``sft_{task}``, ``sft_{task}_rec``.
Tasks: video, ad, product, interactive, label_cond, label_pred.

Columns
    ``messages``: JSON text or a list of ``{role, content}``; content is text or a list of ``{type: "text", text}``.
    ``metadata`` (optional): JSON text or a struct, with ``uid`` and ``answer``, both optional.
    ``uuid``, ``source`` and others are left alone.

The answer is metadata's, else the text of a last message by the assistant, after its ``</think>``. Items are
``<|sid_begin|><s_a_1><s_b_2><s_c_3><|sid_end|>``. An answer holds one to ten of them, or for label_pred 是 / 否 (or
yes / no, 1 / 0), where the candidate is the last item of the prompt.

Validation is held out of train by whole users: 1,000 rows or 5 %, whichever is less, so no target of a user stands on
both sides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from recrl.data.dataset import Catalog, Dataset, Examples, Sequences
from recrl.data.log import BadRows
from recrl.data.ragged import Ragged
from recrl.data.readers.lines import source_folder
from recrl.errors import DataError
from recrl.parts import Options, Part

TASKS = ("video", "ad", "product", "interactive", "label_cond", "label_pred")
LABELS = {"是": 1, "yes": 1, "1": 1, "否": 0, "no": 0, "0": 0}
MAX_TARGETS = 10
SID = re.compile(r"<\|sid_begin\|><s_a_(\d+)><s_b_(\d+)><s_c_(\d+)><\|sid_end\|>")
PARTS = re.compile(r"(?:sft_)?(?P<task>" + "|".join(TASKS) + r")(?:_rec)?(?:_(?P<split>train|test))?\.parquet")
HISTORY_LIMIT = 512  # E-2: the longest list of watched items

Code = tuple[int, int, int]


class RecifOptions(Options):
    valid_rows: int = Field(1_000, ge=0)
    valid_share: float = Field(0.05, ge=0, lt=1)
    """Validation: the smaller of the two."""
    seed: int = Field(0, ge=0)
    """Of the choice of validation users."""


@dataclass
class _Rows:
    """Parsed rows of one split; items are still codes."""

    users: list[int] = field(default_factory=list)
    history: list[list[Code]] = field(default_factory=list)
    targets: list[list[Code]] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


class _BadRow(Exception):  # noqa: N818 not an error yet: BadRows decides
    """Reason and detail of a row that can't be used."""


def read(source: Path | None, options: RecifOptions, bad_rows: BadRows) -> Dataset:
    """The data set; the catalogue is every SID seen, in order of codes.

    Raises:
        DataError: a file is missing or broken, or a row can't be used.
    """
    source = source_folder(source)
    files = list(_find(source))
    users: dict[str, int] = {}
    rows = {"train": _Rows(), "test": _Rows()}
    for path, task, split in files:
        _read_file(path, task, rows[split], users, bad_rows)
    if not rows["train"].users and not rows["test"].users:
        raise DataError(f"{source} holds no usable row", why="there is nothing to prepare", fix="check the files")
    codes = sorted({code for part in rows.values() for row in (*part.history, *part.targets) for code in row})
    index = {code: row for row, code in enumerate(codes)}
    train, test = (_examples(part, index) for part in rows.values())
    held_out = _hold_out(train.users, options)
    tokens = [tuple(f"<s_{letter}_{code}>" for letter, code in zip("abc", item, strict=True)) for item in codes]
    empty = [""] * len(codes)
    return Dataset(
        Catalog([sid_text(code) for code in codes], empty, empty, empty, empty, tokens),
        list(users),
        Sequences(np.zeros(0, np.int32), Ragged.from_lists([]), np.zeros(0, np.int32)),
        train.select(np.flatnonzero(~held_out)),
        train.select(np.flatnonzero(held_out)),
        test,
        {"history_limit": HISTORY_LIMIT, "tasks": sorted({task for _, task, _ in files})},
    )


def _find(source: Path) -> Iterator[tuple[Path, str, str]]:
    found = 0
    for path in sorted([*source.glob("*.parquet"), *source.glob("*/*.parquet")]):
        named = PARTS.fullmatch(path.name)
        if named is not None:
            found += 1
            yield path, named["task"], named["split"] or "train"
    if not found:
        raise DataError(
            f"{source} holds no RecIF file",
            why="none is named {task}_train.parquet, {task}_test.parquet or sft_{task}_rec.parquet",
            fix=f"name the files so; tasks: {', '.join(TASKS)}",
        )


def _read_file(path: Path, task: str, rows: _Rows, users: dict[str, int], bad_rows: BadRows) -> None:
    number = 0
    try:
        with pq.ParquetFile(path) as table:
            columns = set(table.schema_arrow.names)
            if "messages" not in columns:
                found = f"{path} has columns {', '.join(sorted(columns))}"
                raise DataError(found, why="the recif reader needs messages", fix="pass OpenOneRec's own files")
            for batch in table.iter_batches(columns=sorted(columns & {"messages", "metadata"})):
                for row in batch.to_pylist():
                    number += 1
                    try:
                        _add(rows, users, task, row, f"{task}:{path.name}:{number}")
                    except _BadRow as problem:
                        bad_rows.add(path, number, *problem.args)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"can't read {path}", why=str(error).splitlines()[0], fix="fetch the file again") from None


def _add(rows: _Rows, users: dict[str, int], task: str, row: dict[str, Any], unnamed: str) -> None:
    """Parse one row and append it, or raise ``_BadRow`` and append nothing."""
    messages = _messages(row["messages"])
    metadata = _json(row.get("metadata") or {}, dict, "metadata is not a JSON object")
    answer = metadata.get("answer")
    if messages[-1][0] == "assistant":
        *messages, (_, said) = messages
        answer = answer if answer is not None else said.rpartition("</think>")[2]
    if answer is None:
        raise _BadRow("no answer", "neither in metadata nor by an assistant")
    prompt = "\n".join(text for _, text in messages)
    history, label = _codes(prompt), -1
    if task == "label_pred":
        label = LABELS.get(str(answer).strip().lower(), -1)
        if label < 0:
            raise _BadRow("an answer that is neither yes nor no", str(answer)[:40])
        if not history:
            raise _BadRow("no candidate in the prompt", "")
        targets = [history.pop()]
    else:
        targets = list(dict.fromkeys(_codes(str(answer))))
        if not 1 <= len(targets) <= MAX_TARGETS:
            raise _BadRow("not one to ten targets", str(len(targets)))
    uid = metadata.get("uid")
    rows.users.append(users.setdefault(unnamed if uid is None else str(uid), len(users)))
    rows.history.append(history)
    rows.targets.append(targets)
    rows.tasks.append(task)
    rows.prompts.append(prompt)
    rows.labels.append(label)


def _messages(value: Any) -> list[tuple[str, str]]:
    """``[(role, text), ...]``."""
    messages = _json(value, list, "messages is not a JSON list")
    out = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _BadRow("a message without a role", str(message)[:40])
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
        if not isinstance(content, str):
            raise _BadRow("a message without text", str(message)[:40])
        out.append((message["role"], content))
    if not out:
        raise _BadRow("no messages", "")
    return out


def _json(value: Any, kind: type, reason: str) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise _BadRow(reason, str(error)) from None
    if not isinstance(value, kind):
        raise _BadRow(reason, type(value).__name__)
    return value


def _codes(text: str) -> list[Code]:
    codes = [(int(a), int(b), int(c)) for a, b, c in SID.findall(text)]
    if text.count("<|sid_begin|>") != len(codes) or text.count("<|sid_end|>") != len(codes):
        raise _BadRow("a broken SID", f"{text.count('<|sid_begin|>')} begin, {len(codes)} are whole")
    return codes


def sid_text(code: Code) -> str:
    return (
        "<|sid_begin|>"
        + "".join(f"<s_{letter}_{number}>" for letter, number in zip("abc", code, strict=True))
        + "<|sid_end|>"
    )


def _examples(rows: _Rows, index: dict[Code, int]) -> Examples:
    def place(match: re.Match[str]) -> str:
        a, b, c = match.groups()
        return f"<|item:{index[int(a), int(b), int(c)]}|>"

    return Examples(
        np.asarray(rows.users, np.int32),
        Ragged.from_lists([[index[code] for code in row] for row in rows.history]),
        Ragged.from_lists([[index[code] for code in row] for row in rows.targets]),
        rows.tasks,
        [SID.sub(place, prompt) for prompt in rows.prompts],
        np.asarray(rows.labels, np.int8),
    )


def _hold_out(users: NDArray[np.int32], options: RecifOptions) -> NDArray[np.bool_]:
    """[rows] bool: the validation rows, all rows of randomly chosen users, up to the wanted number."""
    wanted = min(options.valid_rows, int(options.valid_share * len(users)))
    names, counts = np.unique(users, return_counts=True)
    order = np.random.default_rng(options.seed).permutation(len(names))
    fits = np.cumsum(counts[order]) <= wanted
    return np.isin(users, names[order[fits]])


READER = Part(RecifOptions, read, "Kuaishou-OneRec/OpenOneRec@1f4a99e, RecIF-Bench")
