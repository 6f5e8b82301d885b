"""What a finished run left in its folder: validations, what had been spent by then, and what its groups looked like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recrl.errors import DataError
from recrl.report.collect import Series, Status, read_metrics

Array = NDArray[np.float64]
SHARES = ("all_zero", "single_hit", "trainable")
"""Metrics ``signal/NAME_ratio``: shares of groups without a hit, with one, and with a gradient."""
PARTS = 20
"""Of a run, over each of which the shares are averaged."""


@dataclass(frozen=True)
class Line:
    """A quantity through one run: ``x`` [n] ascending, ``y`` [n]."""

    x: Array
    y: Array


@dataclass(frozen=True)
class Record:
    """One finished run; V validations, the one of the start among them.

    Attributes:
        ndcg: [V] validation NDCG@10.
        responses, optimizer_steps: [V] spent by then.
        shares: of groups, by name, against the responses spent.
        actor_tokens: that the updates computed.
        train_seconds: rollouts, rewards and updates, without validation and saving.
        seconds: everything.
    """

    recipe: str
    seed: int
    state: str
    reason: str
    best_step: int
    ndcg: Array
    responses: Array
    optimizer_steps: Array
    shares: dict[str, Line]
    actor_tokens: float
    train_seconds: float
    seconds: float

    @property
    def best(self) -> float:
        return float(self.ndcg.max())


def state_of(stage: Path) -> Status | None:
    """How the run in a stage's folder stands; None where it has not begun.

    Raises:
        DataError: its status is broken.
    """
    path = stage / "status.json"
    if not path.is_file():
        return None
    try:
        return Status.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is broken", why=str(error).splitlines()[0], fix="remove the run's folder") from None


def is_finished(stage: Path) -> bool:
    """The run has come to its end."""
    status = state_of(stage)
    return status is not None and status.state in ("finished", "stopped_early")


def read_record(stage: Path, recipe: str, seed: int) -> Record:
    """Read a finished run.

    Raises:
        DataError: its metrics are broken, or lack what every run writes.
    """
    status = state_of(stage)
    series, _ = read_metrics(stage / "metrics.jsonl")
    needed = {"valid/ndcg@10", "rollout/responses", "timing_s/step", "tokens/actor_effective"}
    if status is None or status.best_step is None or status.seconds is None or not needed <= series.keys():
        missing = ", ".join(sorted(needed - series.keys())) or "status.json"
        raise DataError(f"{stage} is not a finished run", why=f"{missing} is missing", fix="remove the folder")
    valid = series["valid/ndcg@10"]
    responses = _spent(series["rollout/responses"])
    steps = _spent(series["actor/optimizer_steps"]) if "actor/optimizer_steps" in series else Line(*np.zeros((2, 1)))
    return Record(
        recipe,
        seed,
        status.state,
        status.reason,
        status.best_step,
        valid.values,
        _at(responses, valid.steps),
        _at(steps, valid.steps),
        {name: _in_parts(series[f"signal/{name}_ratio"], responses) for name in SHARES},
        series["tokens/actor_effective"].total,
        series["timing_s/step"].total,
        status.seconds,
    )


def read_environment(stage: Path) -> dict[str, object]:
    """Versions, device and revision of a run."""
    found: dict[str, object] = json.loads((stage / "environment.json").read_text())
    return {key: value for key, value in found.items() if key != "seed"}


@dataclass(frozen=True)
class Band:
    """A quantity through the runs of one recipe: its mean over seeds, the lowest and the highest, all [n] at ``x``."""

    x: Array
    mean: Array
    low: Array
    high: Array


def over_seeds(lines: Sequence[Line]) -> Band:
    """Mean, lowest and highest of several runs, at every place where one of them has a value and all have begun and
    none has ended; between its own values a run is taken to be straight.
    """
    first, last = max(line.x[0] for line in lines), min(line.x[-1] for line in lines)
    x = np.unique(np.concatenate([line.x for line in lines]))
    x = x[(x >= first) & (x <= last)]
    values = np.stack([np.interp(x, line.x, line.y) for line in lines])
    return Band(x, values.mean(0), values.min(0), values.max(0))


def _spent(series: Series) -> Line:
    """The running sum of what every step spent; 0 before the first one."""
    return Line(np.concatenate(([0.0], series.steps)), np.concatenate(([0.0], np.cumsum(series.values))))


def _at(spent: Line, steps: Array) -> Array:
    """What had been spent after each of some steps."""
    return spent.y[np.searchsorted(spent.x, steps, side="right") - 1]


def _in_parts(series: Series, responses: Line) -> Line:
    """Means over at most ``PARTS`` stretches of a run, each at the responses spent in its middle."""
    count = min(PARTS, len(series.steps))
    at = _at(responses, series.steps)
    parts = zip(np.array_split(at, count), np.array_split(series.values, count), strict=True)
    middle = [(float(x.mean()), float(y.mean())) for x, y in parts]
    return Line(*np.array(middle).T)
