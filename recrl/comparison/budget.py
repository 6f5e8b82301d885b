"""Matched-budget ratios (papers.md D-8): what a recipe needs to reach the score that another one ends with.

ReCast's ratio is in training steps, from the first checkpoint that scores as much. Here the validations are the
checkpoints, the score is their mean over seeds, and the ratio is given in responses and in optimiser steps: recipes of
one budget of responses differ in the steps that they make of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from recrl.comparison.figures import BudgetRatio, Curve, Training
from recrl.comparison.records import Record


def budget_ratios(training: dict[str, Training], records: Sequence[Record]) -> list[BudgetRatio]:
    """Every recipe against every other one as the baseline."""
    pairs = [(recipe, baseline) for recipe in training for baseline in training if recipe != baseline]
    return [_ratio(recipe, baseline, training, records) for recipe, baseline in pairs]


def _ratio(recipe: str, baseline: str, training: dict[str, Training], records: Sequence[Record]) -> BudgetRatio:
    own, other = training[recipe], training[baseline]
    gained = other.last > other.start
    runs = [record for record in records if record.recipe == recipe]
    return BudgetRatio(
        recipe=recipe,
        baseline=baseline,
        responses=_share(own.by_responses, other.last, other.responses) if gained else None,
        optimizer_steps=_share(own.by_optimizer_steps, other.last, other.optimizer_steps) if gained else None,
        seeds_reached=sum(run.best >= other.last for run in runs) if gained else 0,
        seeds=len(runs),
        baseline_gained=gained,
    )


def _share(curve: Curve, target: float, spent: float) -> float | None:
    """Where a curve first reaches a score, over what the baseline spends."""
    reached = next((x for x, mean in zip(curve.x, curve.mean, strict=True) if mean >= target), None)
    return None if reached is None or not spent else reached / spent
