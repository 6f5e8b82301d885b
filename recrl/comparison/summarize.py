"""From the files of finished runs to the figures of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from recrl.evaluation.results import ALONE, NEW, Metric, load_per_user, load_result, load_results

START = "start"
"""Name of the start's evaluation."""
START_ALONE = START + ALONE
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
        splits=[_split(plan, split, recipes, finished) for split in splits],
        training=training,
        ratios=budget_ratios(training, records),
        runs=[_run(record, run) for record, run in zip(records, finished, strict=True)],
    )


def _split(plan: Plan, split: str, recipes: list[str], finished: Sequence[PlannedRun]) -> SplitFigures:
    lists = SplitLists(plan.folder / "evaluation", split, NEW if plan.base.eval.exclude_history else "")
    references, best = lists.references()
    names = {recipe: [run.name for run in finished if run.recipe == recipe] for recipe in recipes}
    return SplitFigures(
        split=split,
        num_examples=load_result(lists.path(START)).num_examples,
        history_left_out=bool(lists.suffix),
        best_baseline=best,
        references=references,
        recipes=_scores(lists, best, names),
    )


@dataclass(frozen=True)
class SplitLists:
    """The evaluations of one split; ``suffix`` says of which lists, those without the history or all."""

    folder: Path
    split: str
    suffix: str

    def path(self, name: str) -> Path:
        return self.folder / f"{name}{self.suffix}-{self.split}.json"

    def references(self) -> tuple[dict[str, dict[str, Metric]], str | None]:
        """The start with and without its memory, the baselines and the optimum; and the best of the baselines."""
        found: dict[str, dict[str, Metric]] = {}
        baselines: dict[str, float] = {}
        for result in load_results(self.folder):
            name = result.name.removesuffix(self.suffix)
            named = result.name == name + self.suffix or result.kind == "optimum"
            if result.split != self.split or not named or (result.kind == "model" and name not in (START, START_ALONE)):
                continue
            if not self.suffix and name.endswith(NEW):
                continue
            found[name] = {metric: result.metrics[metric] for metric in RANKING if metric in result.metrics}
            if result.kind == "baseline" and "ndcg@10" in found[name]:
                baselines[name] = found[name]["ndcg@10"].value
        return found, max(baselines, key=lambda name: baselines[name]) if baselines else None

    def per_user(self, name: str) -> dict[str, PerUser]:
        """{} where the model was not measured in this way, or has no numbers a user (AUC)."""
        path = self.path(name)
        return (load_per_user(path) or {}) if path.is_file() else {}


def _scores(lists: SplitLists, best: str | None, names: dict[str, list[str]]) -> dict[str, Score]:
    """Means and paired differences of every recipe; none where the split has no numbers a user (AUC)."""
    start, baseline = lists.per_user(START), lists.per_user(best) if best is not None else {}
    if not start or not names:
        return {}
    metrics = [name for name in RANKING if name in start]
    groups: dict[tuple[str, str, str], list[PerUser]] = {}
    for recipe, of_recipe in names.items():
        runs, alone = ([lists.per_user(run + way) for run in of_recipe] for way in ("", ALONE))
        for metric in metrics:
            groups["mean", recipe, metric] = [run[metric] for run in runs]
            groups["start", recipe, metric] = [run[metric] - start[metric] for run in runs]
            if metric in baseline:
                groups["baseline", recipe, metric] = [run[metric] - baseline[metric] for run in runs]
            if all(metric in run for run in alone):
                groups["alone", recipe, metric] = [run[metric] for run in alone]
    found = estimates(groups)

    def means(kind: str, recipe: str) -> dict[str, Metric]:
        return {metric: _metric(found[kind, recipe, metric]) for metric in metrics if (kind, recipe, metric) in found}

    def against(kind: str, recipe: str) -> dict[str, Difference]:
        differences = {}
        for metric in metrics:
            if (kind, recipe, metric) in found:
                adjusted = holm({other: found[kind, other, metric].p_value for other in names})
                differences[metric] = _difference(found[kind, recipe, metric], adjusted[recipe])
        return differences

    return {
        recipe: Score(
            seeds=len(of_recipe),
            metrics=means("mean", recipe),
            against_start=against("start", recipe),
            against_baseline=against("baseline", recipe),
            alone=means("alone", recipe),
        )
        for recipe, of_recipe in names.items()
    }


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
