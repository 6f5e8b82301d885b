"""``recrl doctor``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from recrl.commands.options import echo_json, json_option

AS_THEY_ARE = ("packages", "links", "kernels", "optional", "launch")
"""Sections whose names are those of code and programs."""
UNITS = {"_gib": "GiB", "_gflops": "GFLOP/s", "_gb_per_s": "GB/s"}


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
            _print(title, _chosen(facts) if title == "kernels" else list(facts.items()))
        click.echo("\nA run can work here." if not found.problems else "\nNo run can work here:")
        for problem in found.problems:
            click.echo(f"  {problem}")
    if found.problems:
        sys.exit(1)


def _print(title: str, facts: list[tuple[str, Any]]) -> None:
    click.echo(click.style(title, bold=True))
    rows = [(name if title in AS_THEY_ARE else _label(name), _shown(value)) for name, value in facts]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"  {name.ljust(width)}  {value}")


def _label(name: str) -> str:
    """``free_gib`` -> ``free (GiB)``."""
    for ending, unit in UNITS.items():
        if name.endswith(ending):
            return f"{name.removesuffix(ending).replace('_', ' ')} ({unit})"
    return name.replace("_", " ")


def _shown(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _chosen(kernels: dict[str, Any]) -> list[tuple[str, str]]:
    """The implementation of every op; then every reason once, with those that it keeps out."""
    shown = [(op, choice["chosen"]) for op, choice in kernels.items()]
    reasons: dict[str, list[str]] = {}
    for choice in kernels.values():
        for name, why in choice["others"].items():
            reasons.setdefault(why, [])
            if name not in reasons[why]:
                reasons[why].append(name)
    return shown + [(f"not {', '.join(names)}", why) for why, names in reasons.items()]
