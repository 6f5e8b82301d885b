"""``recrl config``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recrl.commands.options import config_argument, echo_json, json_option, recipe_option, set_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recrl.config_help import KeyHelp


@click.group()
def config() -> None:
    """Show a config in full, list its keys, or print one to start from."""


@config.command(short_help="Print a config in full.")
@config_argument
@set_option
@recipe_option
@json_option
def show(config: str, overrides: tuple[str, ...], recipe: str | None, as_json: bool) -> None:
    """Print CONFIG (a TOML file) as a run would see it: with defaults, recipe and overrides."""
    from recrl.config import load  # pydantic loads here, so that --help answers at once

    run = load(Path(config), overrides, recipe=recipe)
    if as_json:
        echo_json(json.loads(run.model_dump_json()))
        return
    click.echo(run.to_toml(), nl=False)


@config.command(short_help="List every key.")
@json_option
def schema(as_json: bool) -> None:
    """List every key with its type, default, bounds and help, and the options of every kind of part."""
    from recrl import config_help  # torch loads below it: kinds stand beside what they do

    if as_json:
        echo_json(config_help.json_schema())
        return
    click.echo("Keys of a config. A part is a table with `kind` and the options of that kind, listed below.")
    click.echo("The kinds of `data` are the formats of `recrl data`, and their options go with its -O.\n")
    click.echo(_table(config_help.section_keys()))
    for family in config_help.FAMILIES:
        for part in config_help.part_help(family):
            click.echo(f'\n{family}: kind = "{part.kind}"')
            click.echo(part.summary + "\n")
            click.echo(_table(part.options) if part.options else "No options.")


@config.command(short_help="Print a config to start from.")
def example() -> None:
    """Print a commented config that runs on the embedded data."""
    from recrl.config_help import example as text

    click.echo(text(), nl=False)


def _table(keys: Sequence[KeyHelp]) -> str:
    """Markdown, its columns aligned; the last one, the help, is as long as it is."""
    rows: list[tuple[str, ...]] = [("Key", "Type", "Default", "Bounds", "Help")]
    rows += [(key.key, key.type, key.default, key.bounds, key.help) for key in keys]
    rows = [tuple(cell.replace("|", "or") for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["| " + " | ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|---|")
    return "\n".join(lines)
