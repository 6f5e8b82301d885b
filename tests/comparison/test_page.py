"""Both pages from figures made by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest

from recrl.comparison.figures import (
    BudgetRatio,
    Comparison,
    Curve,
    Difference,
    RunFigures,
    Score,
    SplitFigures,
    Training,
)
from recrl.comparison.markdown import markdown
from recrl.comparison.page import page
from recrl.comparison.words import verdicts, warnings
from recrl.evaluation.results import Metric

CURVE = Curve(x=[0, 500, 1000], mean=[0.1, 0.2, 0.15], low=[0.1, 0.18, 0.1], high=[0.1, 0.22, 0.2])


def training(**changes: Any) -> Training:
    values: dict[str, Any] = {
        "seeds": 2,
        "responses": 1000,
        "optimizer_steps": 40,
        "actor_tokens": 123456,
        "train_seconds": 75,
        "start": 0.1,
        "best": 0.2,
        "last": 0.15,
        "best_is_start": 0,
        "by_responses": CURVE,
        "by_optimizer_steps": CURVE,
        "shares": dict.fromkeys(("all_zero", "single_hit", "trainable"), CURVE),
    }
    return Training(**(values | changes))


def score(value: float, p_value: float) -> Score:
    difference = Difference(value=value, low=value - 0.01, high=value + 0.01, p_value=p_value / 2, p_holm=p_value)
    beside = Difference(value=-0.01, low=-0.02, high=0.001, p_value=0.03, p_holm=0.06)
    return Score(
        seeds=2,
        metrics={"ndcg@10": Metric(value=0.2, low=0.1, high=0.3)},
        against_start={"ndcg@10": difference},
        against_baseline={"ndcg@10": beside},
        alone={"ndcg@10": Metric(value=0.15, low=0.14, high=0.16)} if value > 0.01 else {},
    )


def run(recipe: str, seed: int, **changes: Any) -> RunFigures:
    counts = {"planned_responses": 1000, "responses": 1000, "optimizer_steps": 40, "actor_tokens": 5}
    scores = {"start": 0.1, "best": 0.2, "best_step": 5, "last": 0.15, "train_seconds": 60, "seconds": 80}
    return RunFigures(recipe=recipe, seed=seed, **({"state": "finished", "reason": ""} | counts | scores | changes))


def comparison(**changes: Any) -> Comparison:
    recipes = ["good", "bad", "flat"]
    split = SplitFigures(
        split="test",
        num_examples=1652,
        history_left_out=True,
        best_baseline="item_knn",
        references={"start": {"ndcg@10": Metric(value=0.19, low=0.1, high=0.3)}},
        recipes={"good": score(0.02, 0.004), "bad": score(-0.03, 0.0004), "flat": score(0.005, 0.6)},
    )
    about = {"baseline": "bad", "seeds_reached": 1, "seeds": 2}
    values: dict[str, Any] = {
        "command": "recrl bench methods run.toml --recipes '<b>'",
        "start": "runs/x/sft",
        "split": "test",
        "budget": 1000,
        "recipes": recipes,
        "seeds": 2,
        "planned_runs": 6,
        "environment": {"cpus": 2, "device": "cpu", "packages": {"torch": "2.13"}},
        "splits": [split],
        "training": {"good": training(), "bad": training(last=0.05), "flat": training(best_is_start=1)},
        "ratios": [
            BudgetRatio(recipe="good", responses=0.25, optimizer_steps=None, baseline_gained=True, **about),
            BudgetRatio(recipe="flat", responses=None, optimizer_steps=None, baseline_gained=False, **about),
        ],
        "runs": [run(recipe, seed) for recipe in recipes for seed in (0, 1)],
    }
    return Comparison(**(values | changes))


def test_the_verdict_follows_the_adjusted_p_value():
    good, beside, bad, _, flat, _ = verdicts(comparison())
    assert beside == "good minus item_knn, the best baseline, on test: −0.0100 (−0.0200 to +0.0010)."
    assert good == "good: above the start on test, NDCG@10 +0.0200 (+0.0100 to +0.0300), p (Holm) 0.004."
    assert bad.startswith("bad: below the start on test, NDCG@10 −0.0300")
    assert bad.endswith("p (Holm) < 0.001.")
    assert flat.startswith("flat: no difference from the start is shown on test")


def test_a_recipe_whose_start_was_never_beaten_says_so():
    never = comparison(training={name: training(best_is_start=2) for name in ("good", "bad", "flat")})
    assert verdicts(never)[0] == "good: no validation was above the start's in any run, so its row is the start's."


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "bad ends below its start: last validation NDCG@10 0.0500, start 0.1000 (mean of 2 runs)"),
        ({}, "flat: in 1 of 2 runs no validation was above the start's"),
        ({"planned_runs": 7}, "6 of 7 runs are finished"),
        ({"training": {"good": training(seeds=1)}, "splits": [], "ratios": []}, "One seed says nothing"),
        ({"runs": [run("good", 0, responses=990)]}, "good, seed 0, made 990 responses where 1,000 were planned"),
        ({"runs": [run("good", 0, state="stopped_early", reason="fell")]}, "good, seed 0, did not spend its budget"),
    ],
)
def test_what_a_reader_must_know_is_said(changes: dict[str, Any], says: str):
    assert any(line.startswith(says) for line in warnings(comparison(**changes)))


def test_a_whole_comparison_without_trouble_needs_no_warning():
    fine = comparison(training=dict.fromkeys(("good", "bad", "flat"), training()))
    assert warnings(fine) == []


def test_the_markdown_holds_the_figures():
    text = markdown(comparison())
    assert "## Best checkpoints, test, 1,652 examples, items of the history left out" in text
    assert "| start |  | 0.1900 (0.1000 to 0.3000) |  |  |  |  |" in text
    row = "| good | 2 | 0.2000 (0.1000 to 0.3000) | +0.0200 (+0.0100 to +0.0300) | 0.004 |"
    assert f"{row} −0.0100 (−0.0200 to +0.0010) | 0.060 |" in text
    assert "| good, without its memory | 2 | 0.1500 (0.1400 to 0.1600) |  |" in text
    assert "bad, without its memory" not in text
    assert "| good | 2 | 1,000 | 40 | 123,456 | 1 min 15 s | 0.1000 | 0.2000 | 0.1500 |" in text
    assert "| good | · | 0.25 (1 of 2 runs) | · |" in text
    assert "| good | · | not reached (1 of 2 runs) | · |" in text
    assert "| flat | · | no gain to match | · |" in text


def test_the_page_needs_nothing_beside_it_and_escapes_what_a_user_wrote():
    text = page(comparison())
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
    assert not re.search(r"<(script|link|img|iframe)|url\((?!#)", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert text.count('role="img"') == 5
    assert "means over seeds: good from 0.1 at 0 to 0.15 at 1,000" in text
    assert "var(--series-3)" in text
    assert "#3a3b" not in text  # every stand-in colour has become the page's


def test_pages_can_be_written_before_any_run_has_finished():
    nothing = comparison(runs=[], training={}, ratios=[], splits=[], environment={})
    assert "0 of 6 runs are finished" in markdown(nothing)
    assert "No run is finished yet" in page(nothing)
