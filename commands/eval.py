"""``recrl eval``."""

from __future__ import annotations

from pathlib import Path

import click

from recrl.commands.options import echo_json, json_option


@click.command("eval")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option(
    "--split", type=click.Choice(["valid", "test"]), default="test", show_default=True, help="Examples to score."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of every model's config, such as eval.exclude_history=true.",
)
@json_option
def evaluate(paths: tuple[Path, ...], split: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Evaluate runs, stages and checkpoints side by side, beside popularity and item-kNN.

    A PATH is a run folder (its best SFT and RL checkpoints), a stage folder, or one checkpoint. Every model is measured
    as its own config says, an SFT beside the memory of the RL that began with it; rows NAME-alone are without a memory,
    rows NAME-new leave out the items of the history. --set lies on every config. Results are kept in evaluation/ of the
    first run, those under --set in a folder of their own there.
    """
    from rich.console import Console

    from recrl.evaluation.evaluate import evaluate as run  # torch loads here, so that --help answers at once
    from recrl.evaluation.results import comparison_tables

    results, folder = run(list(paths), split, lambda text: click.echo(text, err=True), overrides)
    if as_json:
        echo_json([result.model_dump(by_alias=True, mode="json") for result in results])
        return
    for table in comparison_tables(results):
        Console().print(table)
    click.echo(f"Results: {folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder}")
