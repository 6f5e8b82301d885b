"""``recrl tune``."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import click

from recrl import config as configs
from recrl.commands.options import config_argument, echo_json, json_option, recipe_option, set_option


class Numbers(click.ParamType[list[float]]):
    """Numbers with commas between them, within bounds."""

    name = "numbers"

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        try:
            found = [float(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 1,2,4", param, ctx)
        for number in found:
            if not (math.isfinite(number) and self.low <= number <= self.high):
                self.fail(f"{number:g} is not within {self.low:g}..{self.high:g}", param, ctx)
        return list(dict.fromkeys(found))


@click.command()
@click.option(
    "--weights", type=Numbers(0, 32), default="0,1,2,4,8,16", show_default=True, metavar="LIST", help="memory.weight."
)
@click.option("--floors", type=Numbers(1e-12, 0.9), metavar="LIST", help="memory.floor. Default: CONFIG's.")
@set_option
@recipe_option
@json_option
@config_argument
def tune(
    config: str,
    weights: list[float],
    floors: list[float] | None,
    overrides: tuple[str, ...],
    recipe: str | None,
    as_json: bool,
) -> None:
    """Choose the weight of CONFIG's memory on validation, for the model that its RL starts from.

    Every weight is tried with every floor on eval.valid_examples examples; the test split is not looked at.
    """
    from rich.console import Console
    from rich.table import Table

    run = configs.load(Path(config), overrides, recipe=recipe)
    from recrl.training import tuning  # torch loads here, so that --help and a wrong config answer at once

    found = tuning.tune_memory(run, weights, floors or [run.memory.floor], lambda text: click.echo(text, err=True))
    chosen = tuning.best(found)
    if as_json:
        echo_json({"best": asdict(chosen), "tried": [asdict(one) for one in found]})
        return
    table = Table("memory.weight", "memory.floor", "HR@10", "NDCG@10", title=f"{run.run.name}, validation")
    for one in found:
        cells = (f"{one.weight:g}", f"{one.floor:g}", f"{one.hr_at_10:.4f}", f"{one.ndcg_at_10:.4f}")
        table.add_row(*cells, style="bold" if one is chosen else None)
    Console().print(table)
    click.echo(f"Best: --set memory.weight={chosen.weight:g} --set memory.floor={chosen.floor:g}")
