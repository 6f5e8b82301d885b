"""What a comparison found, as ``results.json`` holds it; the pages are written from this alone."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from recrl.evaluation.results import Metric


class Figures(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Difference(Figures):
    """Recipe minus start, or minus a baseline, on the same users, with its 95 % interval over seeds and users.

    ``p_value`` is two-sided; ``p_holm`` is adjusted for as many tests as there are recipes.
    """

    value: float
    low: float
    high: float
    p_value: float
    p_holm: float


class Score(Figures):
    """A recipe's best checkpoints on one split: means over ``seeds`` runs."""

    seeds: int
    metrics: dict[str, Metric]
    against_start: dict[str, Difference]
    against_baseline: dict[str, Difference]
    """Against the baseline with the highest NDCG@10; {} without any."""
    alone: dict[str, Metric]
    """The same checkpoints without their memory; {} where they have none."""


class SplitFigures(Figures):
    """One split (of one task, where it holds several)."""

    split: str
    num_examples: int
    history_left_out: bool
    """Whether every list, of models and baselines, leaves out the items of the history (``eval.exclude_history``)."""
    best_baseline: str | None
    """Of NDCG@10."""
    references: dict[str, dict[str, Metric]]
    """The start, the baselines and a known optimum; intervals are over users."""
    recipes: dict[str, Score]


class Curve(Figures):
    """Mean, lowest and highest over seeds; lists of one length."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


class Training(Figures):
    """The runs of one recipe. Counts and seconds are means over its runs; scores are validation NDCG@10."""

    seeds: int
    responses: float
    optimizer_steps: float
    actor_tokens: float
    train_seconds: float
    start: float
    best: float
    last: float
    best_is_start: int
    """Runs in which no validation was above that of the start."""
    by_responses: Curve
    by_optimizer_steps: Curve
    shares: dict[str, Curve]
    """Of groups, by name, against responses."""


class BudgetRatio(Figures):
    """What a recipe needs to reach what a baseline ends with, over what the baseline spends (papers.md D-8).

    Both are None where the recipe's mean curve never gets there, or where the baseline ends at or below the start.
    """

    recipe: str
    baseline: str
    responses: float | None
    optimizer_steps: float | None
    seeds_reached: int
    """Runs of the recipe that get there, each by itself."""
    seeds: int
    baseline_gained: bool


class RunFigures(Figures):
    """One finished run."""

    recipe: str
    seed: int
    state: str
    reason: str
    planned_responses: int
    responses: float
    optimizer_steps: float
    actor_tokens: float
    train_seconds: float
    seconds: float
    start: float
    best: float
    best_step: int
    last: float


class Comparison(Figures):
    """The runs that are finished, of those that are planned."""

    version: Literal[1] = 1
    command: str
    start: str
    split: str
    budget: int
    """Responses a run."""
    recipes: list[str]
    seeds: int
    planned_runs: int
    environment: dict[str, Any]
    splits: list[SplitFigures]
    training: dict[str, Training]
    ratios: list[BudgetRatio]
    runs: list[RunFigures]

    @property
    def complete(self) -> bool:
        return len(self.runs) == self.planned_runs
