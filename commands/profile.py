"""``recrl profile``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from recrl.commands.options import echo_json, json_option

if TYPE_CHECKING:
    from recrl.hardware.planner import Plan

SID_LEVELS = 3
"""Tokens that name an item, where nothing else is said (``sid.levels``)."""


@click.group()
def profile() -> None:
    """Describe machines, and plan a run on them before it is started."""


@profile.command("list", short_help="List the profiles.")
@json_option
def list_(as_json: bool) -> None:
    """List every profile that comes with the package; a file of your own is named by its path."""
    from recrl.hardware.profiles import FIGURES, known_profiles, load_profile

    found = [load_profile(name) for name in known_profiles()]
    if as_json:
        echo_json([one.model_dump(exclude={"sources"}) | {"devices": one.devices} for one in found])
        return
    head = (
        "profile",
        "device",
        "devices",
        "GiB",
        "bf16 TFLOPS",
        "fp32 TFLOPS",
        "memory GB/s",
        "in node GB/s",
        "out GB/s",
    )
    rows = [
        (
            *(one.name, one.device, f"{one.nodes} x {one.devices_per_node}"),
            *("measured" if one.measured else f"{getattr(one, figure):g}" for figure in FIGURES),
        )
        for one in found
    ]
    _print_table(head, rows)


@profile.command(short_help="Print a profile with its sources.")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Print the profile NAME (or a TOML file) with where each figure comes from."""
    from recrl.hardware.profiles import SOURCED, load_profile

    found = load_profile(name)
    if as_json:
        echo_json(found.model_dump() | {"devices": found.devices})
        return
    click.echo(f"{found.name}: {found.nodes} x {found.devices_per_node} devices of type {found.device}")
    if found.reported_as:
        click.echo(f"torch calls it {', '.join(found.reported_as)}")
    if found.measured:
        click.echo("its figures are measured where it stands")
        return
    for figure in SOURCED:
        source = found.sources.get(figure, "one, as nothing else is said")
        click.echo(f"{figure:<22} {getattr(found, figure):>8g}  {source}")


@profile.command(short_help="Say which profile this machine is.")
@json_option
def detect(as_json: bool) -> None:
    """Say which profile describes the devices of this machine, and how that was found."""
    from dataclasses import asdict

    from recrl.hardware.detect import detect as look

    found = look()
    if as_json:
        echo_json(asdict(found))
        return
    click.echo(f"device   {found.device}: {len(found.reported)} x {', '.join(dict.fromkeys(found.reported))}")
    click.echo(f"profile  {found.profile or 'not known'}")
    click.echo(f"why      {found.why}")


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a plan is made of."""
    for option in reversed(
        (
            click.option(
                "--model", required=True, help="A built-in size such as Qwen3-8B, or a config.json or its folder."
            ),
            click.option("--recipe", required=True, help="A recipe's name, or a TOML file: the method."),
            click.option("--profile", "machine", help="A profile, or a TOML file; default: this machine's."),
            click.option("--prompt-tokens", type=int, required=True, help="Tokens of a prompt."),
            click.option("--response-tokens", type=int, help="Tokens of a response; default: 3 for every item."),
            click.option("--group", type=int, help="Responses a prompt, in place of the recipe's."),
            click.option("--prompts-per-step", type=int, help="Prompts of a rollout, in place of the recipe's."),
            click.option(
                "--dtype",
                type=click.Choice(("bfloat16", "float32")),
                default="bfloat16",
                show_default=True,
                help="Arithmetic of products (backend.dtype).",
            ),
            click.option("--efficiency", type=float, default=0.4, show_default=True, help="Share of the peak assumed."),
            click.option("--usable", type=float, default=0.9, show_default=True, help="Share of the memory assumed."),
            click.option("--whole-optimizer", is_flag=True, help="AdamW's moments on every copy, not split over them."),
            json_option,
        )
    ):
        command = option(command)
    return command


@profile.command(short_help="Judge every layout of a run.")
@plan_options
def size(as_json: bool, **given: Any) -> None:
    """Predict memory, FLOPs and time of an RL step in every legal layout, the best one first."""
    from recrl.hardware import plan_text

    found = _plan(**given)
    if as_json:
        echo_json(plan_text.plan_json(found))
        return
    for line in plan_text.summary(found):
        click.echo(line)
    _print_table(plan_text.HEAD, [plan_text.row(layout) for layout in found.layouts])
    click.echo(f"The first by part, GiB: {plan_text.parts(found.layouts[0])}")


@profile.command(short_help="Name the best layout of a run.")
@plan_options
def select(as_json: bool, **given: Any) -> None:
    """Name the fastest layout that fits, and what to set for it. Exits with 2 where none fits."""
    from recrl.errors import UserError
    from recrl.hardware import plan_text

    found = _plan(**given)
    best = found.layouts[0]
    if not best.fits:
        raise UserError(
            f"{found.job.shape.name} on {found.profile.name}",
            why=f"no layout fits; the nearest (TP {best.share.tensor} x DP {best.share.data}) {best.why_not}",
            fix="take more or larger devices, shorter prompts, or a smaller model",
        )
    settings = plan_text.settings(found.job, best)
    if as_json:
        echo_json(plan_text.layout_json(best) | {"profile": found.profile.name, "settings": settings})
        return
    click.echo(f"tensor parallel {best.share.tensor} x data parallel {best.share.data} on {found.profile.name}")
    for key, value in settings.items():
        click.echo(f"  {key} = {json.dumps(value)}")
    click.echo(
        f"predicted: {best.memory.total / 2**30:.1f} GiB a device, {best.seconds:.2f} s a step, MFU {best.mfu:.3f}"
    )


def _plan(
    *,
    model: str,
    recipe: str,
    machine: str | None,
    prompt_tokens: int,
    response_tokens: int | None,
    group: int | None,
    prompts_per_step: int | None,
    dtype: str,
    efficiency: float,
    usable: float,
    whole_optimizer: bool,
) -> Plan:
    from recrl.hardware.detect import this_machine, with_figures
    from recrl.hardware.model_shapes import find_shape
    from recrl.hardware.planner import Assumptions, Job, plan
    from recrl.hardware.profiles import load_profile

    shape = find_shape(model)
    chosen = load_profile(machine) if machine else None

    from recrl.hardware.step_load import step_load  # torch loads here, so that a wrong name is answered at once

    load = step_load(recipe, group=group, prompts=prompts_per_step)
    per_response = SID_LEVELS * load.slate if response_tokens is None else response_tokens
    job = Job(shape, load, prompt_tokens, per_response, dtype)
    figures = with_figures(chosen or this_machine())
    return plan(job, figures, Assumptions(efficiency, usable, not whole_optimizer))


def _print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 200).print(table)
