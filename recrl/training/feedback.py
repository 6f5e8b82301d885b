"""RL's best responses as rows of a later SFT (RecLLM, papers.md A-7).

A folder holds one JSON file a step, written whole and under the step's name: a resumed run writes the same files again.
Items stand there by their place in the catalogue, so a file says which data set it belongs to.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recrl.atomic import write_text
from recrl.data.dataset import Dataset, Examples
from recrl.data.ragged import Ragged
from recrl.errors import DataError, RunError, UserError
from recrl.groups.rollout import Signal

Row = dict[str, list[int]]
"""``history``, oldest first, and the ``items`` of a response."""
FOLDER = "feedback"
"""Below a stage's folder."""
FILES = "step-*.json"


def best_responses(signal: Signal, share: float) -> list[Row]:
    """What RL judged good: the best ``share`` of a step's responses by advantage, one at least, of those above 0.

    Groups that were repaired are left out, since their best response was given and not made, and so are prompts
    without a history.
    """
    groups = signal.groups
    asked = (groups.prompts.history >= 0).any(1) & ~signal.repaired
    worth = torch.where(groups.names & asked.unsqueeze(1), signal.advantage, float("-inf")).flatten()
    best = worth.argsort(descending=True, stable=True)[: max(1, round(share * int(groups.exists.sum())))]
    best = best[worth[best] > 0]
    histories = groups.prompts.history[best // groups.exists.shape[1]].tolist()
    slates = groups.items.flatten(0, 1)[best].tolist()
    return [
        {"history": _real(history), "items": _real(slate)} for history, slate in zip(histories, slates, strict=True)
    ]


def record(folder: Path, step: int, rows: list[Row], dataset: Dataset) -> None:
    """Write the rows of a step, in place of what an earlier try left of it.

    Raises:
        RunError: the disk is full or gone.
    """
    target = folder / FILES.replace("*", f"{step:06d}")
    try:
        folder.mkdir(exist_ok=True)
        write_text(target, json.dumps({"dataset": dataset.meta["fingerprint"], "rows": rows}) + "\n")
    except OSError as error:
        raise RunError(f"can't write {target}", why=str(error), fix="make room, then go on with --resume") from None


def take_back(folder: Path, step: int) -> None:
    """Forget the steps behind ``step``: the run does them again."""
    for path in folder.glob(FILES):
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()


def load(folder: Path, dataset: Dataset, slate_size: int) -> Examples:
    """The rows of all steps, as examples of the task that asks for ``slate_size`` items.

    Raises:
        UserError: there are none, or they belong to another data set.
        DataError: a file is broken.
    """
    rows = [row for path in sorted(folder.glob(FILES)) for row in _read(path, dataset)]
    if not rows:
        raise UserError(
            f"sft.feedback: no rows at {folder}",
            why="RL has kept no response there",
            fix="name the folder runs/NAME/rl/feedback of a run with rl.feedback_share above 0",
        )
    history = Ragged.from_lists([row["history"] for row in rows])
    targets = Ragged.from_lists([row["items"][:slate_size] for row in rows])
    examples = Examples.plain(np.full(len(rows), -1, np.int32), history, targets)
    return replace(examples, tasks=["slate" if slate_size > 1 else "next"] * len(rows))


def _read(path: Path, dataset: Dataset) -> list[Row]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        bound, rows = found["dataset"], list(found["rows"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"can't read {path}", why=repr(error), fix="remove it, or run RL again") from None
    if bound != dataset.meta["fingerprint"]:
        raise UserError(
            f"sft.feedback: {path} belongs to another data set",
            why=f"its items are those of {bound}, and data.path is {dataset.meta['fingerprint']}",
            fix="name the feedback of a run on the same data",
        )
    return rows


def _real(items: list[int]) -> list[int]:
    return [item for item in items if item >= 0]
