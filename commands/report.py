"""``recrl report``."""

from __future__ import annotations

from pathlib import Path

import click

from recrl.commands.options import echo_json, json_option


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write. Default: RUN_DIR/report.html."
)
@json_option
def report(run_dir: Path, out: Path | None, as_json: bool) -> None:
    """Write the report page of RUN_DIR, one HTML file that needs nothing beside it."""
    from recrl.report.page import build_report  # matplotlib and jinja2 load here, so that --help answers at once

    path = build_report(run_dir, out)
    if as_json:
        echo_json({"report": str(path)})
        return
    click.echo(f"Report: {path}")
