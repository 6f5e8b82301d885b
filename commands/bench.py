"""``recrl bench``."""

from __future__ import annotations

from pathlib import Path

import click

from recrl.bench import MEASUREMENTS
from recrl.commands.options import echo_json, json_option
from recrl.errors import RunError


@click.group(short_help="Measure the engine against its peers.")
def bench() -> None:
    """Measure how fast this machine does what recrl does, and what its peers need for the same work."""


@bench.command(short_help="Measure rollout and update.")
@click.option("--quick", is_flag=True, help="Small sizes and few repeats: some minutes in place of an hour.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(MEASUREMENTS)), help="Measure this alone; may be repeated."
)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("bench/RESULTS.md"),
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
