"""``recrl sft``."""

from __future__ import annotations

from pathlib import Path

import click

from recrl import config as configs
from recrl.commands.options import echo_json, step_progress, train_options


@click.command()
@train_options
def sft(
    config: str,
    recipe: str | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Fine-tune the model that CONFIG (a TOML file) describes on its data's training rows."""
    run = configs.load(Path(config), overrides, recipe=recipe)
    if dry_run:
        from recrl.method import check_scorers

        check_scorers(run)
        click.echo(run.to_toml())
        return
    from recrl.training.sft import train_sft  # torch loads here, so that --help and a wrong config answer at once

    with step_progress("SFT", ("sft/loss", "valid/ndcg@10")) as report:
        status = train_sft(run, report, overwrite=overwrite, resume=resume)
    if as_json:
        echo_json(status)
        return
    click.echo(f"SFT {status['state']}: {status['reason']}")
    click.echo(
        f"best validation NDCG@10 {status['best_value']:.4f} at step {status['best_step']}: {run.folder / 'sft'}"
    )
