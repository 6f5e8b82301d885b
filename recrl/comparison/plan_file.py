"""``plan.json``: what a folder's comparison was begun with, so that a second call compares like with like."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from recrl.atomic import write_text
from recrl.comparison.plan import Plan
from recrl.config_layers import changes, flat
from recrl.errors import DataError, UserError

NAME = "plan.json"


def settle(plan: Plan) -> None:
    """Keep the plan, where it fits what the folder holds.

    Raises:
        UserError: as ``check``, or the folder can't be written.
        DataError: what is kept is broken.
    """
    path, wanted = plan.folder / NAME, check(plan)
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(wanted, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"can't write {path}", why=error.strerror or str(error), fix="choose another --out") from None


def check(plan: Plan) -> dict[str, Any]:
    """The plan as its file has it, held against the one that is kept; runs may be added to that one.

    Raises:
        UserError: the folder holds another plan's runs or something else.
        DataError: what is kept is broken.
    """
    path, wanted = plan.folder / NAME, _as_json(plan)
    if path.is_file():
        _check_same(path, wanted)
    elif plan.folder.is_dir() and any(plan.folder.iterdir()):
        raise UserError(f"{plan.folder} holds something else", why=f"it has no {NAME}", fix="choose another --out")
    return wanted


def _as_json(plan: Plan) -> dict[str, Any]:
    """What has to stay the same: the start, the split, the budget, and every run's config."""
    weights = hashlib.sha256()
    for file in sorted(plan.start.glob("*.safetensors")):
        with file.open("rb") as content:
            weights.update(hashlib.file_digest(content, "sha256").digest())
    return {
        "start": {"model": str(plan.start), "sha256": weights.hexdigest()},
        "split": plan.split,
        "responses": plan.responses,
        "runs": {run.name: json.loads(run.config.model_dump_json()) for run in plan.runs},
    }


def _check_same(path: Path, wanted: dict[str, Any]) -> None:
    try:
        kept = json.loads(path.read_text())
        runs = kept.pop("runs")
        before = flat(kept)
        of_runs = {name: flat(run) for name, run in runs.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is broken", why=str(error), fix="choose another --out") from None
    now = flat({key: value for key, value in wanted.items() if key != "runs"})
    of_a_run = (_change(name, run, wanted["runs"].get(name)) for name, run in of_runs.items())
    said = changes(before, now) or next(filter(None, of_a_run), "")  # the same key of many runs is one change
    if said:
        raise UserError(
            f"{path.parent} was begun with another plan",
            why=f"{said}; its runs would not be compared like with like",
            fix="undo the change, or choose another --out; recipes and seeds may be added",
        )


def _change(name: str, before: dict[str, Any], planned: dict[str, Any] | None) -> str:
    if planned is None:
        return f"{name} is not planned"
    said = changes(before, flat(planned))
    return f"in {name}, {said}" if said else ""
