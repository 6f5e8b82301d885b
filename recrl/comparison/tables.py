"""The tables of a comparison, as both pages show them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from recrl.comparison.figures import BudgetRatio, Comparison, Difference, SplitFigures, Training
from recrl.comparison.words import interval, p_words, ratio_words, signed
from recrl.evaluation.results import Metric, metric_label
from recrl.report.page import RESULT_NAMES, duration

NAMES = RESULT_NAMES | {"start": "start", "start-alone": "start, without its memory"}


@dataclass(frozen=True)
class Cell:
    """A value, and in small what stands below it."""

    text: str = ""
    small: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row names it. ``note`` says how to read it."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str


def tables(found: Comparison) -> list[Table]:
    """All tables that the finished runs fill."""
    made = [_scores(one) for one in found.splits if any(one.references.values())]
    if found.training:
        made.append(_spending(found.training))
    if found.ratios:
        made += [_ratios(found, "responses"), _ratios(found, "optimizer_steps")]
    return made


def _scores(split: SplitFigures) -> Table:
    metrics = list(dict.fromkeys(name for row in split.references.values() for name in row))
    best = split.best_baseline
    other = [] if best is None else [f"minus {NAMES.get(best, best)}", "p (Holm)"]
    columns = ["", "runs"]
    for name in metrics:
        columns += [metric_label(name), "minus start", "p (Holm)", *other]
    nothing = [Cell() for _ in ("minus start", "p (Holm)", *other)]

    def row(name: str, runs: str, values: dict[str, Metric]) -> list[Cell]:
        return [Cell(name), Cell(runs), *chain.from_iterable([_score(values.get(of)), *nothing] for of in metrics)]

    rows = [row(NAMES.get(name, name), "", values) for name, values in split.references.items()]
    for recipe, score in split.recipes.items():
        cells = []
        for name in metrics:
            cells += [_score(score.metrics.get(name)), *_against(score.against_start.get(name))]
            cells += _against(score.against_baseline.get(name)) if other else []
        rows.append([Cell(recipe), Cell(str(score.seeds)), *cells])
        if score.alone:
            rows.append(row(f"{recipe}, without its memory", str(score.seeds), score.alone))
    left_out = ", items of the history left out" if split.history_left_out else ""
    return Table(
        f"Best checkpoints, {split.split}, {split.num_examples:,} examples{left_out}",
        columns,
        rows,
        "In small 95 % intervals: of recipes over users and seeds (both resampled), of the others over users. Minus: "
        "on the same users; the baseline is the one with the highest NDCG@10 here. p: paired bootstrap, two-sided, of "
        "no difference, adjusted by Holm for the number of recipes. All of it is given this one start: another SFT may "
        "rank the recipes in another way.",
    )


def _score(metric: Metric | None) -> Cell:
    if metric is None:
        return Cell("–")
    small = "" if metric.low is None else f"{metric.low:.4f} to {metric.high:.4f}"
    return Cell(f"{metric.value:.4f}", small)


def _against(difference: Difference | None) -> list[Cell]:
    if difference is None:
        return [Cell("–"), Cell("–")]
    return [Cell(signed(difference.value), interval(difference)), Cell(p_words(difference.p_holm))]


def _spending(training: dict[str, Training]) -> Table:
    columns = ["", "runs", "responses", "optimiser steps", "actor tokens", "training time", "start", "best", "last"]
    rows = [
        [
            Cell(recipe),
            Cell(str(one.seeds)),
            Cell(f"{one.responses:,.0f}"),
            Cell(f"{one.optimizer_steps:,.0f}"),
            Cell(f"{one.actor_tokens:,.0f}"),
            Cell(duration(one.train_seconds)),
            *(Cell(f"{value:.4f}") for value in (one.start, one.best, one.last)),
        ]
        for recipe, one in training.items()
    ]
    return Table(
        "What a run spends, and its validation NDCG@10",
        columns,
        rows,
        "Means over the runs of a recipe. Actor tokens: computed by the updates, after filtering. Training time: "
        "rollouts, rewards and updates, without validation. Best and last: of the validations during training, on the "
        "same examples in every run; the best is chosen by them, so it is too high by chance.",
    )


def _ratios(found: Comparison, unit: str) -> Table:
    recipes = list(found.training)
    words = {"responses": "responses", "optimizer_steps": "optimiser steps"}[unit]
    by_pair = {(ratio.recipe, ratio.baseline): ratio for ratio in found.ratios}
    rows = [
        [Cell(recipe), *(_ratio(by_pair.get((recipe, baseline)), unit) for baseline in recipes)] for recipe in recipes
    ]
    return Table(
        f"Matched-budget ratio in {words}",
        ["", *(f"as {recipe}" for recipe in recipes)],
        rows,
        f"The {words} after which a row's mean validation NDCG@10 first is what the column's recipe ends with, over "
        f"the {words} that that one spends: below 1 the row is cheaper. In small: runs that get there by themselves.",
    )


def _ratio(ratio: BudgetRatio | None, unit: str) -> Cell:
    if ratio is None:
        return Cell("·")
    small = f"{ratio.seeds_reached} of {ratio.seeds} runs" if ratio.baseline_gained else ""
    return Cell(ratio_words(ratio, getattr(ratio, unit)), small)
