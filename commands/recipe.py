"""``recrl recipe``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from recrl.commands.options import echo_json, json_option

if TYPE_CHECKING:
    from recrl.recipe import Recipe


@click.group()
def recipe() -> None:
    """List, show and compare recipes: the methods that ``recrl rl --recipe`` trains with."""


@recipe.command("list", short_help="List the recipes.")
@json_option
def list_(as_json: bool) -> None:
    """List every recipe that comes with the package, with its source."""
    from recrl.recipe import names, read

    found = [read(name) for name in names()]
    if as_json:
        echo_json([_summary(one) for one in found])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe", "varies", "what it is", "source")
    for one in found:
        table.add_row(one.name, one.base, one.about, one.source)
    Console(width=None if Console().is_terminal else 160).print(table)


@recipe.command(short_help="Print a recipe.")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Print the recipe NAME (or a TOML file) with what it takes from the recipe that it varies."""
    from recrl.config import read_recipe
    from recrl.recipe import read

    found = read(name)
    read_recipe(name)  # says what is wrong with it, before anything is printed
    if as_json:
        echo_json(_summary(found) | {"values": found.values})
        return
    import tomli_w

    click.echo(f"# {found.about}\n# Source: {found.source}" + (f"\n# Varies: {found.base}" if found.base else ""))
    click.echo(tomli_w.dumps(found.values), nl=False)


@recipe.command(short_help="Compare two recipes.")
@click.argument("left")
@click.argument("right")
@json_option
def diff(left: str, right: str, as_json: bool) -> None:
    """Print the keys in which the recipes LEFT and RIGHT differ."""
    from recrl.recipe import difference, read

    rows = difference(read(left), read(right))
    if as_json:
        echo_json([{"key": key, left: first, right: second} for key, first, second in rows])
        return
    if not rows:
        click.echo("The same values.")
        return
    width = max(len(key) for key, _, _ in rows)
    for key, first, second in rows:
        click.echo(f"{key:<{width}}  {_shown(first)} -> {_shown(second)}")


def _summary(found: Recipe) -> dict[str, Any]:
    return {"name": found.name, "about": found.about, "source": found.source, "base": found.base}


def _shown(value: Any) -> str:
    return "(left to the run)" if value is None else str(value)
