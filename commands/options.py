"""Options and output that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

config_argument: Decorator = click.argument("config", type=click.Path())
set_option: Decorator = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG, such as sft.lr=0.001."
)
recipe_option: Decorator = click.option("--recipe", help="A recipe's name, or a TOML file: the method.")
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
overwrite_option: Decorator = click.option("--overwrite", is_flag=True, help="Replace what is there.")
resume_option: Decorator = click.option("--resume", is_flag=True, help="Go on from the newest whole checkpoint.")
dry_run_option: Decorator = click.option("--dry-run", is_flag=True, help="Check CONFIG, print it in full, and stop.")


def train_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """CONFIG and the options of a command that trains."""
    options = (json_option, overwrite_option, resume_option, dry_run_option, set_option, recipe_option, config_argument)
    for option in options:
        command = option(command)
    return command


def echo_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def step_progress(name: str, shown: tuple[str, ...]) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A progress bar with rate and time left; silent where the output is not a terminal.

    Args:
        name: of the stage.
        shown: metrics to show beside the bar, by name.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[speed]} {task.fields[metrics]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None, metrics="", speed="")
        latest: dict[str, float] = {}

        def report(step: int, steps: int, values: dict[str, float]) -> None:
            latest.update({key: value for key, value in values.items() if key in shown})
            text = "  ".join(f"{key} {latest[key]:.4g}" for key in shown if key in latest)
            speed = progress.tasks[task].speed
            rate = f"{speed:.2f} steps/s" if speed else ""
            progress.update(task, completed=step, total=steps, metrics=text, speed=rate)

        yield report
