"""``recrl demo``."""

from __future__ import annotations

from pathlib import Path

import click

from recrl.commands.options import echo_json, json_option, set_option, step_progress

SHOWN = ["hr@10", "ndcg@10", "entropy_bits@10", "coverage@10", "legal_ratio@10"]


@click.command()
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), default=Path(), help="Where data/, sids/ and runs/ go."
)
@set_option
@json_option
def demo(folder: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Run the whole path on synthetic data: marketplace, semantic IDs, SFT, RL, evaluation, report page."""
    from rich.console import Console

    from recrl.demo import demo_config, run_demo  # torch loads here, so that --help answers at once
    from recrl.evaluation.results import ALONE, comparison_tables

    config = demo_config(folder, overrides)
    with (
        step_progress("SFT", ("sft/loss", "valid/ndcg@10")) as sft_report,
        step_progress("RL", ("reward/mean", "valid/ndcg@10")) as rl_report,
    ):
        results, page = run_demo(config, lambda text: click.echo(text, err=True), sft_report, rl_report)
    if as_json:
        echo_json({"report": str(page), "results": [row.model_dump(by_alias=True, mode="json") for row in results]})
        return
    # One table of 80 columns; the page has all.
    shown = [result for result in results if not result.name.endswith(ALONE)]
    for table in comparison_tables(shown, SHOWN):
        Console().print(table)
    click.echo(f"Report: {page}")
