"""From the files of finished runs to the figures of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from recrl.comparison.budget import budget_ratios
from recrl.comparison.figures import Comparison, Curve, Difference, RunFigures, Score, SplitFigures, Training
from recrl.comparison.plan import Plan, PlannedRun
from recrl.comparison.records import (
    SHARES,
    Band,
    Line,
    Record,
    over_seeds,
    read_environment,
    read_record,
)
from recrl.comparison.statistics import Estimate, estimates, holm
from recrl.evaluation.metrics import PerUser
from recrl.evaluation.results import EvaluationResult, Metric, load_per_user, load_result, load_results

START = "start"
"""Name of the start's evaluation."""
RANKING = ("hr@10", "pass@10", "recall@10", "ndcg@10")
"""Metrics that are compared, where a split has them."""


def summarize(plan: Plan, finished: Sequence[PlannedRun], splits: Sequence[str]) -> Comparison:
    """Everything that can be said of the runs that are finished and evaluated.

    Args:
        splits: names of the evaluated split, one a task.
    """
    records = [read_record(run.config.folder / "rl", run.recipe, run.seed) for run in finished]
    recipes = [recipe for recipe in plan.recipes if any(record.recipe == recipe for record in records)]
    training = {recipe: _training([one for one in records if one.recipe == recipe]) for recipe in recipes}
    return Comparison(
        command=plan.command,
        start=str(plan.start),
        split=plan.split,
        budget=plan.responses,
        recipes=plan.recipes,
        seeds=plan.seeds,
        planned_runs=len(plan.runs),
        environment=read_environment(finished[0].config.folder / "rl") if finished else {},
        splits=[_split(plan.folder / "evaluation", split, recipes, finished) for split in splits],
        training=training,
        ratios=budget_ratios(training, records),
        runs=[_run(record, run) for record, run in zip(records, finished, strict=True)],
    )


def _split(folder: Path, split: str, recipes: list[str], finished: Sequence[PlannedRun]) -> SplitFigures:
    results = [result for result in load_results(folder) if result.split == split]
    start = load_result(folder / f"{START}-{split}.json")
    references = [result for result in results if result.name == START or result.kind != "model"]
    names = {recipe: [run.name for run in finished if run.recipe == recipe] for recipe in recipes}
    return SplitFigures(
        split=split,
        num_examples=start.num_examples,
        references={result.name: _ranking(result) for result in references},
        recipes=_scores(folder, split, names),
    )


def _ranking(result: EvaluationResult) -> dict[str, Metric]:
    return {name: result.metrics[name] for name in RANKING if name in result.metrics}


def _scores(folder: Path, split: str, names: dict[str, list[str]]) -> dict[str, Score]:
    """Means and paired differences of every recipe; none where the split has no numbers a user (AUC)."""
    start = load_per_user(folder / f"{START}-{split}.json")
    if start is None or not names:
        return {}
    metrics = [name for name in RANKING if name in start]
    groups: dict[tuple[str, str, str], list[PerUser]] = {}
    for recipe, of_recipe in names.items():
        runs = [load_per_user(folder / f"{run}-{split}.json") or {} for run in of_recipe]
        for metric in metrics:
            groups["mean", recipe, metric] = [run[metric] for run in runs]
            groups["difference", recipe, metric] = [run[metric] - start[metric] for run in runs]
    found = estimates(groups)
    scores = {}
    for recipe, of_recipe in names.items():
        values = {metric: _metric(found["mean", recipe, metric]) for metric in metrics}
        against = {}
        for metric in metrics:
            adjusted = holm({other: found["difference", other, metric].p_value for other in names})
            against[metric] = _difference(found["difference", recipe, metric], adjusted[recipe])
        scores[recipe] = Score(seeds=len(of_recipe), metrics=values, against_start=against)
    return scores


def _metric(found: Estimate) -> Metric:
    interval = found.interval
    return Metric(value=interval.value, low=interval.low, high=interval.high)


def _difference(found: Estimate, adjusted: float) -> Difference:
    interval = found.interval
    return Difference(
        value=interval.value, low=interval.low, high=interval.high, p_value=found.p_value, p_holm=adjusted
    )


def _training(records: list[Record]) -> Training:
    def mean(of: Callable[[Record], float]) -> float:
        return float(np.mean([of(record) for record in records]))

    return Training(
        seeds=len(records),
        responses=mean(lambda one: one.responses[-1]),
        optimizer_steps=mean(lambda one: one.optimizer_steps[-1]),
        actor_tokens=mean(lambda one: one.actor_tokens),
        train_seconds=mean(lambda one: one.train_seconds),
        start=mean(lambda one: one.ndcg[0]),
        best=mean(lambda one: one.best),
        last=mean(lambda one: one.ndcg[-1]),
        best_is_start=sum(one.best_step == 0 for one in records),
        by_responses=_curve(over_seeds([Line(one.responses, one.ndcg) for one in records])),
        by_optimizer_steps=_curve(over_seeds([Line(one.optimizer_steps, one.ndcg) for one in records])),
        shares={name: _curve(over_seeds([one.shares[name] for one in records])) for name in SHARES},
    )


def _curve(band: Band) -> Curve:
    return Curve(x=band.x.tolist(), mean=band.mean.tolist(), low=band.low.tolist(), high=band.high.tolist())


def _run(record: Record, planned: PlannedRun) -> RunFigures:
    return RunFigures(
        recipe=record.recipe,
        seed=record.seed,
        state=record.state,
        reason=record.reason,
        planned_responses=planned.responses,
        responses=record.responses[-1],
        optimizer_steps=record.optimizer_steps[-1],
        actor_tokens=record.actor_tokens,
        train_seconds=record.train_seconds,
        seconds=record.seconds,
        start=record.ndcg[0],
        best=record.best,
        best_step=record.best_step,
        last=record.ndcg[-1],
    )
