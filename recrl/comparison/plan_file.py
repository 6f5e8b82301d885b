"""``plan.json``: what a folder's comparison was begun with, so that a second call compares like with like."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from recrl.atomic import write_text
from recrl.comparison.plan import Plan
from recrl.errors import DataError, UserError
from recrl.recipe import flat

NAME = "plan.json"


def settle(plan: Plan) -> None:
    """Keep the plan, or hold it against the one that is kept. Runs may be added to that one.

    Raises:
        UserError: the folder holds another plan's runs or something else, or can't be written.
        DataError: what is kept is broken.
    """
    path, wanted = plan.folder / NAME, _as_json(plan)
    if path.is_file():
        _check_same(path, wanted)
    elif plan.folder.is_dir() and any(plan.folder.iterdir()):
        raise UserError(f"{plan.folder} holds something else", why=f"it has no {NAME}", fix="choose another --out")
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(wanted, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"can't write {path}", why=error.strerror or str(error), fix="choose another --out") from None


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
        before = flat(json.loads(path.read_text()))
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} is broken", why=str(error), fix="choose another --out") from None
    now = flat(wanted)
    changed = [key for key in before if before[key] != now.get(key)]
    if not changed:
        return
    key = changed[0]
    after = repr(now[key]) if key in now else "not planned"
    more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
    raise UserError(
        f"{path.parent} was begun with another plan",
        why=f"{key} was {before[key]!r} and is {after}{more}; its runs would not be compared like with like",
        fix="undo the change, or choose another --out; recipes and seeds may be added",
    )
