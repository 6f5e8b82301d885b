"""``recrl recommend``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from recrl.commands.options import echo_json, json_option


@click.command()
@click.option("--user", help='Item ids of the history, oldest first, such as "12 845 77".')
@click.option(
    "--users",
    type=click.Path(path_type=Path),
    help="Many users instead: parquet with columns user and history, or a line a user: USER ITEM ITEM ...",
)
@click.option("--out", type=click.Path(path_type=Path), help="The parquet file for --users, a row an item.")
@click.option("--k", default=10, show_default=True, help="Items to recommend.")
@click.option(
    "--run", type=click.Path(path_type=Path), help="A run, stage or checkpoint folder. Default: the latest below runs/."
)
@json_option
def recommend(user: str | None, users: Path | None, out: Path | None, k: int, run: Path | None, as_json: bool) -> None:
    """Recommend items to a user: titles, scores, semantic IDs. Or to many: under torchrun, ranks share them out."""
    if (user is None) == (users is None) or (users is None) != (out is None):
        raise click.UsageError("give either --user, or --users with --out")
    from recrl.evaluation.recommend import best_subject, latest_run  # torch loads here, so that --help answers at once
    from recrl.evaluation.recommend import recommend as rank_items

    subject = best_subject(run or latest_run(Path("runs")))
    if user is None:
        from recrl.evaluation.batch import about, recommend_users

        assert users is not None
        assert out is not None
        count = recommend_users(subject, users, out, k)
        if as_json:
            echo_json(about(subject, count, k, out))
        else:
            click.echo(f"{count} users, up to {k} items each: {out}")
        return
    found = rank_items(subject, user, k)
    if as_json:
        echo_json([asdict(row) for row in found])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("#", "item", "title", "log-prob", "SID", title=f"{subject.model.parent}")
    for row in found:
        table.add_row(str(row.rank), row.item_id, row.title, f"{row.score:.2f}", row.sid)
    Console().print(table)
