"""``recrl doctor``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from recrl.commands.options import echo_json, json_option


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine has, how fast it is, and whether a run can work. Exits with 1 if none can."""
    from recrl.hardware.doctor import examine  # pydantic and, in the call, every package load here

    found = examine(Path.cwd())
    if as_json:
        echo_json(found.as_json())
    else:
        for title, facts in found.facts.items():
            _print(title, facts)
        click.echo("\nA run can work here." if not found.problems else "\nNo run can work here:")
        for problem in found.problems:
            click.echo(f"  {problem}")
    if found.problems:
        sys.exit(1)


def _print(title: str, facts: dict[str, Any]) -> None:
    click.echo(click.style(title, bold=True))
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = name if "." in name else name.replace("_", " ")  # a module's name is left as it is
        click.echo(f"  {shown.ljust(width)}  {value}")
