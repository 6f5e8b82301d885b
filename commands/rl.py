"""``recrl rl``."""

from __future__ import annotations

from pathlib import Path

import click

from recrl import config as configs
from recrl.commands.options import echo_json, step_progress, train_options

DEFAULT_RECIPE = "recrl"


@click.command()
@train_options
def rl(
    config: str,
    recipe: str | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Train the policy that CONFIG (a TOML file) describes by reinforcement learning, from its SFT on.

    A CONFIG that names no recipe, rollout, rewards, signal or objective is trained with the recipe recrl.
    """
    run = configs.load(Path(config), overrides, recipe=recipe, otherwise=DEFAULT_RECIPE)
    if dry_run:
        from recrl.method import Method, check_scorers

        Method.make(run.rl)
        check_scorers(run)
        click.echo(run.to_toml())
        return
    from recrl.training.rl import train_rl  # torch loads here, so that --help and a wrong config answer at once

    with step_progress("RL", ("reward/mean", "signal/all_zero_ratio", "valid/ndcg@10")) as report:
        status = train_rl(run, report, overwrite=overwrite, resume=resume)
    if as_json:
        echo_json(status)
        return
    click.echo(f"RL {status['state']}: {status['reason']}")
    click.echo(
        f"validation NDCG@10 {status['start_value']:.4f} at the start, best {status['best_value']:.4f} "
        f"at step {status['best_step']}: {run.folder / 'rl'}"
    )
