"""``recrl launch``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from recrl import config as configs
from recrl.commands.options import config_argument, recipe_option, set_option
from recrl.hardware.launch import SCHEDULERS, Site, make_plan

PATH = click.Path(path_type=Path)
SITE: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--name",), {"help": "Of the job. Default: the run's name and the stage."}),
    (("--workdir",), {"type": PATH, "help": "Folder that all nodes share; CONFIG and run.dir are seen from it."}),
    (("--log-dir",), {"type": PATH, "help": "Of the ranks' output. Default: logs/STAGE in the run's folder."}),
    (("--setup",), {"multiple": True, "help": "A line of shell that goes first, such as one that activates recrl."}),
    (
        ("--restarts",),
        {"type": click.IntRange(0), "default": 3, "show_default": True, "help": "Failures before it gives up."},
    ),
    (("--interface",), {"help": "Network interface between nodes, such as eth0."}),
    (("--cpus",), {"type": click.IntRange(1), "help": "Cores of a node that are asked for."}),
    (("--memory",), {"help": "Memory of a node that is asked for, as the scheduler writes it. Not torchrun."}),
    (("--rendezvous",), {"metavar": "HOST:PORT", "help": "torchrun: where several nodes meet, on the first one."}),
    (("--account",), {"help": "Slurm's."}),
    (("--partition",), {"help": "Slurm's."}),
    (("--time",), {"help": "Slurm's time limit; the job goes back into the queue when it is up."}),
    (("--image",), {"help": "k8s, volcano: the container's."}),
    (("--volume",), {"metavar": "CLAIM:PATH", "help": "k8s, volcano: a shared volume's claim, and where it appears."}),
    (("--namespace",), {"help": "k8s, volcano: where the job lives."}),
    (("--queue",), {"help": "Volcano's."}),
    (("--resource",), {"help": "Not torchrun: name of the devices, where it is not the usual one."}),
    (("--node-selector",), {"multiple": True, "metavar": "KEY=VALUE", "help": "k8s, volcano: label of the nodes."}),
    (("--label",), {"multiple": True, "metavar": "KEY=VALUE", "help": "k8s, volcano: label of job and pods."}),
)


def site_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that are the fields of ``Site``."""
    for words, settings in reversed(SITE):
        command = click.option(*words, **settings)(command)
    return command


@click.command()
@config_argument
@click.option("--profile", required=True, help="Hardware: a profile's name, or a TOML file.")
@click.option("--scheduler", required=True, type=click.Choice(list(SCHEDULERS)), help="What starts it.")
@click.option("--stage", type=click.Choice(["sft", "rl"]), default="rl", show_default=True, help="What to train.")
@recipe_option
@set_option
@click.option("--nodes", type=click.IntRange(1), help="In place of the profile's.")
@click.option("--devices-per-node", type=click.IntRange(1), help="In place of the profile's.")
@site_options
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write the script to.")
@click.option("--submit", "submits", is_flag=True, help="Hand the script to the scheduler.")
def launch(
    config: str,
    profile: str,
    scheduler: str,
    stage: Literal["sft", "rl"],
    recipe: str | None,
    overrides: tuple[str, ...],
    nodes: int | None,
    devices_per_node: int | None,
    out: Path | None,
    submits: bool,
    **site: Any,
) -> None:
    """Print the script that trains CONFIG (a TOML file) on many devices, or start it."""
    from recrl.hardware.launch.submit import check_submit, submit, write
    from recrl.hardware.profiles import load_profile

    run = configs.load(Path(config), overrides, recipe=recipe)
    words = ["recrl", stage, config, "--resume"]
    words += ["--recipe", recipe] if recipe else []
    words += [word for override in overrides for word in ("--set", override)]
    plan = make_plan(
        run,
        load_profile(profile),
        stage,
        tuple(words),
        Site(**site),
        nodes=nodes,
        devices_per_node=devices_per_node,
    )
    chosen = SCHEDULERS[scheduler]
    script = chosen.render(plan)
    if submits:
        check_submit(plan, chosen)
    if out is not None:
        write(out, script)
        click.echo(f"Script: {out}")
    if submits:
        submit(script, chosen)
    elif out is None:
        click.echo(script, nl=False)
