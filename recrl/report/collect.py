"""Read what a run left in its folder. Any part may be missing: then it is None or empty, and the page says so."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from recrl.errors import DataError, UserError
from recrl.evaluation.bootstrap import Interval
from recrl.evaluation.results import EvaluationResult, compare_pairs, load_result, load_results

STAGES = ("sft", "rl")


class Status(BaseModel):
    """How a stage ended (``status.json``). ``best_value`` is the best validation NDCG@10, at ``best_step``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    state: Literal["finished", "stopped_early", "running", "failed"]
    reason: str = ""
    best_step: int | None = None
    best_value: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Series:
    """One metric over a stage: ``steps`` [rows] ascending, ``values`` [rows] finite."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def last(self) -> float:
        return float(self.values[-1])

    @property
    def total(self) -> float:
        return float(self.values.sum())


@dataclass(frozen=True)
class Stage:
    """One stage of a run. ``notes`` tell what in ``metrics.jsonl`` could not be used."""

    name: str
    config: str | None = None
    environment: dict[str, Any] | None = None
    status: Status | None = None
    series: dict[str, Series] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """A run's folder. ``rl_against_sft``: paired difference RL - SFT by split and metric, where it is available."""

    name: str
    stages: list[Stage]
    results: list[EvaluationResult]
    rl_against_sft: dict[str, dict[str, Interval]]


def collect(run_dir: Path) -> Run:
    """Read a run's folder.

    Raises:
        UserError: there is no such folder, or it holds nothing of a run.
        DataError: a file of it is broken.
    """
    if not run_dir.is_dir():
        raise UserError(f"no run folder at {run_dir}", why="it is not there", fix="name a folder below runs/")
    evaluation = run_dir / "evaluation"
    present = [name for name in STAGES if (run_dir / name).is_dir()]
    if not present and not evaluation.is_dir():
        raise UserError(
            f"{run_dir} holds no run",
            why="none of sft/, rl/ and evaluation/ is there",
            fix="name the folder that `recrl sft`, `recrl rl` and `recrl eval` wrote to",
        )
    stages = [_stage(run_dir / name) for name in present]
    return Run(run_dir.resolve().name, stages, load_results(evaluation), _rl_against_sft(evaluation))


def read_metrics(path: Path) -> tuple[dict[str, Series], list[str]]:
    """Read ``metrics.jsonl``: rows of one step are merged; of a step written twice (after a resume) the later counts.

    Returns:
        The series by metric name, and notes on what was left out: a last line that was cut off, values not finite.

    Raises:
        DataError: a line before the last is not a JSON object with a number ``step``.
    """
    found: dict[str, dict[float, float]] = {}
    notes: list[str] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    not_finite = 0
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is None:
            if number == len(lines):
                notes.append(f"The last line of {path.name} was cut off while it was written; it is left out.")
                break
            raise DataError(
                f"{path}, line {number}: {line[:60]!r}",
                why="it is not a JSON object with a number `step`",
                fix="remove the line, or the file",
            )
        for name, value in row.items():
            if name == "step" or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if np.isfinite(value):
                found.setdefault(name, {})[row["step"]] = value
            else:
                not_finite += 1
    if not_finite:
        notes.append(f"{not_finite:,} values in {path.name} are not finite (NaN or infinite); they are left out.")
    return {name: _series(points) for name, points in found.items()}, notes


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as rows of (dotted key, text)."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return rows


def _stage(folder: Path) -> Stage:
    config, environment = folder / "config.toml", folder / "environment.json"
    status, metrics = folder / "status.json", folder / "metrics.jsonl"
    series, notes = read_metrics(metrics) if metrics.is_file() else ({}, [])
    return Stage(
        folder.name,
        config.read_text(encoding="utf-8") if config.is_file() else None,
        _json_object(environment) if environment.is_file() else None,
        _status(status) if status.is_file() else None,
        series,
        notes,
    )


def _status(path: Path) -> Status:
    try:
        return Status.model_validate(_json_object(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise DataError(f"{path}: {where} = {first['input']!r}", why=first["msg"], fix="remove the file") from None


def _json_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is broken", why=str(error), fix="remove the file") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds a {type(found).__name__}", why="an object is needed", fix="remove the file")
    return found


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or isinstance(row.get("step"), bool) or not isinstance(row.get("step"), int | float):
        return None
    return row


def _series(points: dict[float, float]) -> Series:
    steps = sorted(points)
    return Series(np.array(steps, np.float64), np.array([points[step] for step in steps], np.float64))


def _rl_against_sft(evaluation: Path) -> dict[str, dict[str, Interval]]:
    by_key = {
        (result.name, result.split): (path, result.memory)
        for path in evaluation.glob("*.json")
        for result in (load_result(path),)
    }
    found = {
        split: compare_pairs(by_key["sft", split][0], path)
        for (name, split), (path, memory) in sorted(by_key.items())
        if name == "rl" and ("sft", split) in by_key and by_key["sft", split][1] == memory  # else it is no gain of RL's
    }
    return {split: pairs for split, pairs in found.items() if pairs}
