"""What an evaluation leaves behind: ``NAME-SPLIT.json`` for tables, ``NAME-SPLIT.safetensors`` for paired comparisons.

The JSON holds means with their intervals. The file beside it holds the per-user numbers behind them, so that two
checkpoints evaluated on the same users can be compared in pairs later, without either model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from recrl.atomic import write_text
from recrl.errors import DataError
from recrl.evaluation.bootstrap import Interval, bootstrap_means, paired_difference
from recrl.evaluation.metrics import Ints, PerUser
from recrl.processes import own_rank

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLES_KEY = "examples"
KIND_ORDER = ("baseline", "model", "optimum")
NAME_ORDER = ("popularity", "item_knn", "hybrid_knn", "sft", "rl")
"""Names in the order of a table; others follow by name. A model stands behind what it is without its memory."""
NEW = "-new"
"""After the name of a recommender whose lists leave out what the history holds."""
ALONE = "-alone"
"""After the name of a model that is measured without its memory."""
ABSENT = "–"
TABLE_WIDTH, BORDERS = 80, 3
"""Columns of a terminal that a table may take, and those of its first column that are not text."""

_LABELS = {
    "hr": "HR",
    "ndcg": "NDCG",
    "pass": "Pass",
    "recall": "Recall",
    "position1_pass": "Position-1 Pass",
    "partial_hit": "Partial hit",
    "entropy": "Entropy",
    "list_entropy": "List entropy",
    "ild": "ILD",
    "cold_recall": "Cold-Recall",
    "coverage": "Coverage",
    "legal": "Legal",
    "legal_ratio": "Legal",
    "auc": "AUC",
}


class Metric(BaseModel):
    """A value and its 95 % interval; without bounds where none is defined (pooled entropy, coverage, an optimum)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: FiniteFloat
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None


class EvaluationResult(BaseModel):
    """One evaluated recommender on one split."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(1, alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Part of the name of its file, as is the split."""
    kind: Literal["model", "baseline", "optimum"]
    checkpoint: str = ""
    """Where the model was read from; "" where there is none."""
    split: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    num_examples: int = Field(ge=0)
    memory: float | None = None
    """Weight of the memory beside the model; None without one."""
    beam_width: int | None = None
    slate_size: int | None = None
    """Items of a slate, where a model's list is its slates, concatenated."""
    slate_beams: int | None = None
    seconds: float = Field(ge=0)
    metrics: dict[str, Metric]
    """By names such as ``ndcg@10``. A metric that no user is part of is absent."""


def measured(per_user: Mapping[str, PerUser], *, seed: int, num_resamples: int = 1000) -> dict[str, Metric]:
    """Per-user numbers ([U] each, NaN: not part of the mean) -> means with bootstrap intervals.

    A metric that no user is part of (Cold-Recall without a cold target) has no value and is left out.
    """
    if not per_user:
        return {}
    found = bootstrap_means(np.column_stack(list(per_user.values())), seed=seed, num_resamples=num_resamples)
    return {name: _metric(interval) for name, interval in zip(per_user, found, strict=True) if interval is not None}


def save_result(
    result: EvaluationResult,
    folder: Path,
    *,
    per_user: Mapping[str, PerUser] | None = None,
    examples: Ints | None = None,
) -> Path:
    """Write ``folder/NAME-SPLIT.json`` and, with per-user numbers, the ``.safetensors`` beside it.

    Args:
        per_user: [U] each, as ``measured`` takes it; kept as float32.
        examples: [U] which rows of the split the users are; default 0 .. U - 1. Only equal ones are ever paired.
    """
    path = folder / f"{result.name}-{result.split}.json"
    if own_rank():  # every rank has all results, and the first writes them
        return path
    folder.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".safetensors")
    if per_user:
        from safetensors.numpy import save

        users = len(next(iter(per_user.values())))
        rows = np.arange(users) if examples is None else examples
        tensors = {name: np.ascontiguousarray(values, np.float32) for name, values in per_user.items()}
        unfinished = beside.with_name(f".{beside.name}.tmp")
        unfinished.write_bytes(save(tensors | {EXAMPLES_KEY: np.ascontiguousarray(rows, np.int64)}))
        unfinished.replace(beside)
    else:
        beside.unlink(
            missing_ok=True
        )  # numbers of an earlier evaluation of this name must not stand beside the new one
    write_text(path, result.model_dump_json(by_alias=True, indent=2) + "\n")
    return path


def forget(folder: Path, name: str, split: str) -> None:
    """Remove what ``save_result`` kept of a model in every way, so that its rows are of one checkpoint and config."""
    if own_rank():
        return
    for way in ("", NEW, ALONE, ALONE + NEW):
        for ending in (".json", ".safetensors"):
            (folder / f"{name}{way}-{split}{ending}").unlink(missing_ok=True)


def load_result(path: Path) -> EvaluationResult:
    """Read one result.

    Raises:
        DataError: the file is missing, or not a result of this version.
    """
    try:
        return EvaluationResult.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"can't read {path}", why=error.strerror or str(error), fix="evaluate again") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "the file"
        raise DataError(
            f"{path} is not an evaluation result", why=f"{where}: {first['msg']}", fix="evaluate again"
        ) from None


def load_results(folder: Path) -> list[EvaluationResult]:
    """Every result of a folder: baselines first, then models (SFT before RL), the optimum last."""
    return sorted((load_result(path) for path in sorted(folder.glob("*.json"))), key=table_order)


def load_per_user(path: Path) -> dict[str, PerUser] | None:
    """The numbers beside a result's JSON, with ``examples``; None where none were kept.

    Raises:
        DataError: the file is broken.
    """
    beside = path.with_suffix(".safetensors")
    if not beside.is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(beside))
    except (SafetensorError, OSError) as error:
        raise DataError(f"can't read {beside}", why=str(error), fix="evaluate again") from None


def compare_pairs(first: Path, second: Path, *, seed: int = 0) -> dict[str, Interval]:
    """``second - first`` for every metric that both results kept per user, over the same users of the same split.

    Args:
        first, second: the results' JSON files.

    Returns:
        {} where either kept no per-user numbers or the users differ: then there is nothing to pair.
    """
    found = {name: paired_difference(*both, seed=seed) for name, both in paired(first, second).items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def paired(first: Path, second: Path) -> dict[str, tuple[PerUser, PerUser]]:
    """[U] numbers of either result for every metric that both kept, user by user; {} as for ``compare_pairs``."""
    one, other = load_per_user(first), load_per_user(second)
    if one is None or other is None or load_result(first).split != load_result(second).split:
        return {}
    if not np.array_equal(one[EXAMPLES_KEY], other[EXAMPLES_KEY]):
        return {}
    return {name: (one[name], other[name]) for name in one if name in other and name != EXAMPLES_KEY}


def metric_label(name: str) -> str:
    """``ndcg@10`` -> ``NDCG@10``, ``entropy_bits@10`` -> ``Entropy@10 (bits)``; an unknown name stays as it is."""
    base, at, k = name.partition("@")
    unit = next((unit for unit in ("bits", "nats") if base.endswith(f"_{unit}")), "")
    label = _LABELS.get(base.removesuffix(f"_{unit}") if unit else base)
    return name if label is None else f"{label}{at}{k}" + (f" ({unit})" if unit else "")


def metric_names(results: Sequence[EvaluationResult]) -> list[str]:
    """Every metric of any result, in the order of first appearance; what only an optimum has comes last."""
    ordered = sorted(results, key=lambda result: result.kind == "optimum")
    return list(dict.fromkeys(name for result in ordered for name in result.metrics))


def percent_of_optimum(result: EvaluationResult, results: Sequence[EvaluationResult], name: str) -> float | None:
    """100 * value / the best reachable value on the same split; None where either is not known."""
    best = next((other for other in results if other.kind == "optimum" and other.split == result.split), None)
    if best is None or result.kind == "optimum" or name not in best.metrics or name not in result.metrics:
        return None
    reachable = best.metrics[name].value
    return 100 * result.metrics[name].value / reachable if reachable > 0 else None


def comparison_rows(results: Sequence[EvaluationResult], metrics: Sequence[str]) -> list[list[str]]:
    """A row a metric: its label, then a cell a result: value, half its interval, percent of a known optimum."""
    return [[metric_label(name), *(_cell(result, results, name) for result in results)] for name in metrics]


def comparison_tables(results: Sequence[EvaluationResult], metrics: Sequence[str] | None = None) -> list[Table]:
    """The same as rich tables of 80 columns at most, one a split and as many more as its results need; every metric
    unless some are named."""
    from rich.table import Table

    tables = []
    for split in sorted({result.split for result in results}):
        those = [result for result in results if result.split == split]
        title = f"{split}, {those[0].num_examples:,} examples, \u00b1 half of the 95 % interval"
        if any(result.kind == "optimum" for result in those):
            title += ", % of the optimum"
        rows = comparison_rows(those, metric_names(those) if metrics is None else metrics)
        label = max((_width(row[0]) for row in rows), default=0)
        for columns in _blocks([_width(result.name) for result in those], TABLE_WIDTH - label - BORDERS):
            table = Table(title=title, padding=(0, 0, 0, 1))
            table.add_column("", max_width=label)
            for column in columns:
                table.add_column(those[column].name, justify="right", max_width=_width(those[column].name))
            for row in rows:
                table.add_row(row[0], *(row[1 + column] for column in columns))
            tables.append(table)
    return tables


def _width(text: str) -> int:
    """Columns of the widest word, or of a number with its interval's sign."""
    return max(len(word) for word in (*text.split(), "\u00b10.0000"))


def _blocks(widths: Sequence[int], room: int) -> list[list[int]]:
    """The places of consecutive columns that fit side by side, each with its border, in as few blocks as will do and
    of like size; one at least.
    """
    for number in range(1, len(widths) + 1):
        blocks = [part.tolist() for part in np.array_split(np.arange(len(widths)), number)]
        if number == len(widths) or all(sum(widths[place] + 2 for place in block) <= room for block in blocks):
            return blocks
    return []


def table_order(
    result: EvaluationResult, places: Mapping[str, int] | None = None
) -> tuple[str, int, int, str, bool, str]:
    """What results are sorted by; ``places`` are those of models by their names, in place of ``NAME_ORDER``."""
    name = result.name.removesuffix(NEW)
    model = name.removesuffix(ALONE)
    known = {one: place for place, one in enumerate(NAME_ORDER)} | dict(places or {})
    place = known.get(model, len(known))
    return result.split, KIND_ORDER.index(result.kind), place, model, model == name, result.name


def _metric(interval: Interval) -> Metric:
    return Metric(value=interval.value, low=interval.low, high=interval.high)


def _cell(result: EvaluationResult, results: Sequence[EvaluationResult], name: str) -> str:
    metric = result.metrics.get(name)
    if metric is None:
        return ABSENT
    lines = [f"{metric.value:.4f}"]
    if metric.low is not None and metric.high is not None:
        lines.append(f"\u00b1{(metric.high - metric.low) / 2:.4f}")
    share = percent_of_optimum(result, results, name)
    if share is not None:
        lines.append(f"{share:.0f} %")
    return "\n".join(lines)
