"""What the figures of a comparison come to, in sentences; both pages print them."""

from __future__ import annotations

from recrl.comparison.figures import BudgetRatio, Comparison, Difference
from recrl.evaluation.results import metric_label

HEADLINE = "ndcg@10"


def verdicts(found: Comparison) -> list[str]:
    """A sentence a recipe on each split: whether it differs from the start."""
    lines = []
    for one in found.splits:
        for recipe, score in one.recipes.items():
            difference = score.against_start.get(HEADLINE)
            if found.training[recipe].best_is_start == score.seeds:
                lines.append(f"{recipe}: no validation was above the start's in any run, so its row is the start's.")
            elif difference is not None:
                lines.append(
                    f"{recipe}: {_verdict(difference)} on {one.split}, {metric_label(HEADLINE)} "
                    f"{signed(difference.value)} ({interval(difference)}), p (Holm) {p_words(difference.p_holm)}."
                )
            beside = score.against_baseline.get(HEADLINE)
            if beside is not None:
                lines.append(
                    f"{recipe} minus {one.best_baseline}, the best baseline, on {one.split}: "
                    f"{signed(beside.value)} ({interval(beside)})."
                )
    return lines


def _verdict(difference: Difference) -> str:
    if difference.p_holm >= 0.05:
        return "no difference from the start is shown"
    return "above the start" if difference.value > 0 else "below the start"


def warnings(found: Comparison) -> list[str]:
    """What a reader of the table has to know beside it."""
    lines = []
    if not found.complete:
        lines.append(f"{len(found.runs)} of {found.planned_runs} runs are finished; the figures are of these.")
    for recipe, training in found.training.items():
        if training.last < training.start:
            lines.append(
                f"{recipe} ends below its start: last validation NDCG@10 {training.last:.4f}, start "
                f"{training.start:.4f} (mean of {runs(training.seeds)}). The scores are of each run's best checkpoint."
            )
        if 0 < training.best_is_start < training.seeds:
            lines.append(
                f"{recipe}: in {training.best_is_start} of {runs(training.seeds)} no validation was above the start's, "
                "so the start is what was evaluated of them."
            )
    if found.training and any(training.seeds == 1 for training in found.training.values()):
        lines.append("One seed says nothing about other seeds: its interval is over users alone, and too narrow.")
    for run in found.runs:
        if run.state != "finished":
            lines.append(f"{run.recipe}, seed {run.seed}, did not spend its budget: {run.reason}.")
        elif run.responses != run.planned_responses:
            lines.append(
                f"{run.recipe}, seed {run.seed}, made {run.responses:,.0f} responses where "
                f"{run.planned_responses:,} were planned."
            )
    return lines


def ratio_words(ratio: BudgetRatio, value: float | None) -> str:
    """A matched-budget ratio, or why there is none."""
    if value is not None:
        return f"{value:.2f}"
    return "not reached" if ratio.baseline_gained else "no gain to match"


def runs(count: int) -> str:
    """``1 run``, ``3 runs``."""
    return f"{count} run" if count == 1 else f"{count} runs"


def signed(value: float) -> str:
    """With its sign, as typeset."""
    return f"{value:+.4f}".replace("-", "−")


def interval(difference: Difference) -> str:
    """The bounds of a difference."""
    return f"{signed(difference.low)} to {signed(difference.high)}"


def p_words(value: float) -> str:
    """A p-value with three decimals, or that it is lower."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
