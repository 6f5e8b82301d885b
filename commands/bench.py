"""``recrl bench``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recrl.bench import MEASUREMENTS
from recrl.commands.options import config_argument, echo_json, json_option, set_option, step_progress
from recrl.errors import ConfigError, RunError

if TYPE_CHECKING:
    from recrl.comparison.plan import Plan, PlannedRun
    from recrl.training.stage import Report


@click.group(short_help="Measure the engine and compare recipes.")
def bench() -> None:
    """Measure how fast this machine does what recrl does, and compare what recipes make of one budget."""


@bench.command(short_help="Measure rollout and update.")
@click.option("--quick", is_flag=True, help="Small sizes and few repeats: some minutes in place of an hour.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(MEASUREMENTS)), help="Measure this alone; may be repeated."
)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("benchmarks/RESULTS.md"),
    show_default=True,
    help="The page to write; results.json and plots/ go beside it.",
)
@json_option
def engine(quick: bool, only: tuple[str, ...], threads: int, out: Path, as_json: bool) -> None:
    """Measure the engine, side by side with TRL, transformers and plain layouts, and write a page of figures.

    Sections of measurements that are not asked for stay as they are. What is compared is checked to be the same work
    first; where it is not, nothing is reported and the exit code is 1.
    """
    from recrl.bench.run import run_bench  # torch loads here, so that --help answers at once

    found = run_bench(only, quick=quick, threads=threads, page=out, say=lambda text: click.echo(text, err=True))
    if as_json:
        echo_json({name: entry.model_dump() for name, entry in found.items()})
    else:
        for name, entry in found.items():
            click.echo(f"{name}: {entry.state}" + (f": {entry.reason}" if entry.reason else ""))
        click.echo(f"Results: {out}")
    refused = [name for name, entry in found.items() if entry.state == "refused"]
    if refused:
        raise RunError(
            f"{', '.join(refused)}: not reported",
            why="the two sides of a comparison did not do the same work",
            fix=f"see {out}",
        )


@bench.command(short_help="Compare RL recipes over seeds.")
@config_argument
@click.option("--recipes", required=True, metavar="NAME,NAME...", help="Recipes' names, or TOML files.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each recipe.")
@click.option("--responses", type=click.IntRange(1), required=True, help="Responses that every run generates.")
@click.option(
    "--validations", type=click.IntRange(1), default=10, show_default=True, help="Validations of a run after its start."
)
@click.option(
    "--split",
    type=click.Choice(["valid", "test"]),
    default="test",
    show_default=True,
    help="What the best checkpoints are evaluated on.",
)
@click.option("--init", type=click.Path(path_type=Path), help="Model to start from. Default: the best SFT of CONFIG.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder. Default: methods/ below CONFIG's run."
)
@set_option
@click.option("--dry-run", is_flag=True, help="Check the runs, print their steps and responses, and stop.")
@json_option
def methods(
    config: str,
    recipes: str,
    seeds: int,
    responses: int,
    validations: int,
    split: str,
    init: Path | None,
    out: Path | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train every recipe with every seed from one SFT under one budget of responses, and compare them.

    What makes a method comes from the recipe, everything else from CONFIG; --set lies on both. Called again, finished
    runs are kept and the one that was cut short goes on; recipes and seeds may be added. The pages are written after
    every run.
    """
    from recrl.comparison import plan_file
    from recrl.comparison.plan import Asked, make_plan  # torch loads here, so that --help answers at once
    from recrl.comparison.run import MARKDOWN, PAGE, run_comparison
    from recrl.comparison.words import verdicts, warnings

    names = tuple(name for name in recipes.split(",") if name)
    if not names:
        raise ConfigError(f"--recipes {recipes!r}", why="it names none", fix="`recrl recipe list` shows them")
    asked = Asked(Path(config), overrides, names, seeds, responses, validations, split, init, out)
    plan = make_plan(asked)
    if dry_run:
        plan_file.check(plan)
        _show_plan(plan, as_json=as_json)
        return
    found = run_comparison(plan, lambda text: click.echo(text, err=True), _progress)
    if as_json:
        echo_json(found.model_dump(mode="json"))
        return
    for line in (*verdicts(found), *warnings(found)):
        click.echo(line)
    click.echo(f"Results: {plan.folder / MARKDOWN}, {plan.folder / PAGE}")


@contextmanager
def _progress(name: str) -> Iterator[Report]:
    with step_progress(name, ("reward/mean", "signal/trainable_ratio", "valid/ndcg@10")) as report:
        yield report


def _show_plan(plan: Plan, *, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = [_row(run) for run in plan.runs]
    if as_json:
        echo_json({"out": str(plan.folder), "start": str(plan.start), "runs": rows})
        return
    table = Table(title=f"{len(rows)} runs from {plan.start}, evaluated on {plan.split}")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "run" else "right", no_wrap=name == "run")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row.values()))
    Console().print(table)
    click.echo(
        "Optimiser steps at most: one without a trainable group is none, and dynamic sampling's take several rollouts."
    )
    click.echo(f"Below: {plan.folder}")
    if plan.left_out:
        click.echo(f"Left to the recipes, whatever CONFIG says: {', '.join(plan.left_out)}")


def _row(run: PlannedRun) -> dict[str, Any]:
    rl = run.config.rl
    return {
        "run": run.name,
        "prompts": rl.prompts_per_step,
        "group size": run.group_size,
        "rollouts": run.rollouts,
        "optimiser steps": run.optimizer_steps,
        "responses": run.responses,
    }
