"""Run a comparison: what is finished is kept, what was cut short goes on, and the pages are written after every run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from recrl.atomic import write_text
from recrl.comparison import plan_file
from recrl.comparison.figures import Comparison
from recrl.comparison.markdown import markdown
from recrl.comparison.page import page
from recrl.comparison.plan import Plan, PlannedRun
from recrl.comparison.records import is_finished
from recrl.comparison.summarize import START, summarize
from recrl.errors import UserError
from recrl.evaluation.evaluate import Evaluation
from recrl.evaluation.subjects import Subject, subjects
from recrl.processes import started_together
from recrl.training.rl import train_rl
from recrl.training.stage import Report

RESULTS, MARKDOWN, PAGE = "results.json", "RESULTS.md", "report.html"


def run_comparison(
    plan: Plan, say: Callable[[str], None], progress: Callable[[str], AbstractContextManager[Report]]
) -> Comparison:
    """Run what is left of a plan, seed by seed; returns the figures of the whole.

    Args:
        progress: gives a run by its name a place to report its steps to.

    Raises:
        UserError: another plan's runs lie in the folder, or several processes were started together.
        RunError: a run failed; those before it are kept.
    """
    if started_together() > 1:
        raise UserError(
            "a comparison runs in one process", why="it trains and evaluates run after run", fix="start it alone"
        )
    plan_file.settle(plan)
    evaluation = Evaluation.make(plan.base, plan.split, plan.folder / "evaluation")
    splits = [one.name for one in evaluation.sets]

    def evaluated(name: str) -> bool:
        return all((evaluation.folder / f"{name}-{split}.json").is_file() for split in splits)

    if not evaluated(START):
        say(f"baselines and start on {plan.split}: {plan.start}")
        evaluation.baselines()
        evaluation.model(Subject(START, plan.start, plan.base))
    for number, run in enumerate(plan.runs, 1):
        if not is_finished(_stage(run)):
            say(f"{number}/{len(plan.runs)} {run.name}: {run.rollouts:,} rollouts, {run.responses:,} responses")
            with progress(run.name) as report:
                train_rl(run.config, report, resume=True)
        if not evaluated(run.name):
            say(f"{number}/{len(plan.runs)} {run.name} on {plan.split}")
            evaluation.model(replace(subjects(_stage(run))[0], name=run.name))
            done = [one for one in plan.runs if is_finished(_stage(one)) and evaluated(one.name)]
            if len(done) < len(plan.runs):
                write_pages(plan.folder, summarize(plan, done, splits))
    found = summarize(plan, plan.runs, splits)
    write_pages(plan.folder, found)
    return found


def write_pages(folder: Path, found: Comparison) -> None:
    """``results.json``, and the two pages that are written from it."""
    write_text(folder / RESULTS, found.model_dump_json(indent=1) + "\n")
    write_text(folder / MARKDOWN, markdown(found))
    write_text(folder / PAGE, page(found))


def _stage(run: PlannedRun) -> Path:
    return run.config.folder / "rl"
