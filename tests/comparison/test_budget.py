"""Matched-budget ratios by hand, ReCast's own figures among them."""

from __future__ import annotations

import numpy as np
import pytest

from recrl.comparison.budget import budget_ratios
from recrl.comparison.figures import Curve, Training
from recrl.comparison.records import Line, Record


def trained(x: list[float], mean: list[float], steps: list[float] | None = None) -> Training:
    def curve(at: list[float]) -> Curve:
        return Curve(x=at, mean=mean, low=mean, high=mean)

    steps = steps or x
    return Training(
        seeds=1,
        responses=x[-1],
        optimizer_steps=steps[-1],
        actor_tokens=0,
        train_seconds=0,
        start=mean[0],
        best=max(mean),
        last=mean[-1],
        best_is_start=0,
        by_responses=curve(x),
        by_optimizer_steps=curve(steps),
        shares={},
    )


def record(recipe: str, ndcg: list[float]) -> Record:
    values = np.array(ndcg)
    line = Line(values, values)
    return Record(recipe, 0, "finished", "", 0, values, values, values, {"all_zero": line}, 0.0, 0.0, 0.0)


def ratio_of(training: dict[str, Training], *records: Record):
    return {(one.recipe, one.baseline): one for one in budget_ratios(training, records)}


def test_the_first_checkpoint_that_scores_as_much_is_what_counts():
    # ReCast's table: what 20,000 steps of the baseline end with is reached after 820 of its own.
    ours = trained([0, 400, 820, 20000], [0.1, 0.15, 0.21, 0.3])
    theirs = trained([0, 10000, 20000], [0.1, 0.25, 0.2])
    found = ratio_of({"recast": ours, "grpo": theirs}, record("recast", [0.1, 0.3]), record("recast", [0.1, 0.19]))
    assert found["recast", "grpo"].responses == pytest.approx(0.041)
    assert (found["recast", "grpo"].seeds_reached, found["recast", "grpo"].seeds) == (1, 2)
    assert found["grpo", "recast"].responses is None
    assert found["grpo", "recast"].baseline_gained


def test_responses_and_optimiser_steps_each_have_a_ratio():
    ours = trained([0, 50, 100], [0.1, 0.2, 0.3], steps=[0, 200, 400])
    theirs = trained([0, 50, 100], [0.1, 0.15, 0.2], steps=[0, 25, 50])
    found = ratio_of({"many": ours, "few": theirs})["many", "few"]
    assert found.responses == 0.5
    assert found.optimizer_steps == 4.0


def test_a_baseline_that_gains_nothing_gives_no_ratio():
    found = ratio_of({"up": trained([0, 10], [0.1, 0.2]), "down": trained([0, 10], [0.1, 0.05])})["up", "down"]
    assert (found.responses, found.optimizer_steps, found.baseline_gained) == (None, None, False)
