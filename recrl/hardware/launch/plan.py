"""What is to be started, and where: checked before a word of a script is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from recrl.config import RunConfig
from recrl.errors import UserError
from recrl.hardware.launch.environment import Variable, variables
from recrl.hardware.profiles import Profile

Stage = Literal["sft", "rl"]


@dataclass(frozen=True)
class Site:
    """What the user alone knows of a cluster. Nothing of it is ever invented: None is "not said".

    ``recrl launch --help`` explains each as the option of the same name.
    """

    name: str | None = None
    workdir: Path | None = None
    log_dir: Path | None = None
    setup: tuple[str, ...] = ()
    restarts: int = 3
    interface: str | None = None
    cpus: int | None = None
    rendezvous: str | None = None
    account: str | None = None
    partition: str | None = None
    time: str | None = None
    memory: str | None = None
    image: str | None = None
    volume: str | None = None
    namespace: str | None = None
    queue: str | None = None
    resource: str | None = None
    node_selector: tuple[str, ...] = ()
    label: tuple[str, ...] = ()

    def given(self) -> set[str]:
        """Names of what was said."""
        return {field.name for field in fields(self) if getattr(self, field.name) not in (None, ())}


ANYWHERE = frozenset({"name", "workdir", "log_dir", "setup", "restarts", "interface", "cpus"})
"""What every scheduler uses."""
PLAIN = ("name", "interface", "account", "partition", "time", "memory", "resource")
"""Names and figures, which scripts hold without quotes."""


@dataclass(frozen=True)
class Plan:
    """A stage of a run on ``nodes`` machines, one rank a device.

    Attributes:
        name: of the job.
        profile: of the hardware.
        device: "cpu", "cuda" or "npu".
        command: what every rank runs.
        logs: folder of the ranks' output, as seen from the working folder.
        keeps: the run's folder; it must outlive a node.
        variables: environment of every rank.
    """

    name: str
    profile: str
    device: str
    nodes: int
    devices_per_node: int
    command: tuple[str, ...]
    logs: Path
    keeps: Path
    variables: tuple[Variable, ...]
    site: Site

    def text(self, key: str, why: str) -> str:
        """A value of the site that the scheduler can't do without.

        Raises:
            UserError: it was not said.
        """
        value = getattr(self.site, key)
        if value is None:
            raise UserError(f"{_option(key)} is missing", why=why, fix=f"pass {_option(key)}")
        return str(value)


@dataclass(frozen=True)
class Scheduler:
    """One way to start a plan.

    Attributes:
        script: the text that starts it; raises ``UserError`` where the site does not say enough.
        submit: the program that reads the script from its standard input.
        takes: what of a site it uses, besides ``ANYWHERE``.
    """

    name: str
    script: Callable[[Plan], str]
    submit: tuple[str, ...]
    takes: frozenset[str]

    def render(self, plan: Plan) -> str:
        """The script.

        Raises:
            UserError: the site says too little, or something that this scheduler has no use for.
        """
        foreign = sorted(plan.site.given() - ANYWHERE - self.takes)
        if foreign:
            usable = ", ".join(sorted(map(_option, ANYWHERE | self.takes)))
            raise UserError(
                f"{_option(foreign[0])} with --scheduler {self.name}",
                why="it has no use for it",
                fix=f"it takes {usable}",
            )
        return self.script(plan)


def make_plan(
    run: RunConfig,
    profile: Profile,
    stage: Stage,
    command: tuple[str, ...],
    site: Site,
    *,
    nodes: int | None = None,
    devices_per_node: int | None = None,
) -> Plan:
    """Lay a checked config out on a profile's nodes.

    Args:
        command: what every rank runs.
        nodes, devices_per_node: in place of the profile's.

    Raises:
        UserError: the config asks for another device, or the layout can't be.
    """
    nodes, per_node = nodes or profile.nodes, devices_per_node or profile.devices_per_node
    _check_device(run.backend.device, profile, per_node)
    tensor_parallel = run.backend.tensor_parallel
    if per_node % tensor_parallel:
        divisors = [str(number) for number in range(1, per_node + 1) if per_node % number == 0]
        raise UserError(
            f"backend.tensor_parallel = {tensor_parallel}",
            why=f"it does not divide the {per_node} devices of a node, and its traffic must not leave the node",
            fix=f"take one of {', '.join(divisors)}",
        )
    _check_words(command, profile.name, site)
    return Plan(
        name=site.name or f"{run.run.name}-{stage}",
        profile=profile.name,
        device=profile.device,
        nodes=nodes,
        devices_per_node=per_node,
        command=command,
        logs=site.log_dir or run.folder / "logs" / stage,
        keeps=run.folder,
        variables=variables(profile.device, per_node, tensor_parallel, site.interface, site.cpus),
        site=site,
    )


def _check_device(wanted: str, profile: Profile, per_node: int) -> None:
    kind, _, index = wanted.partition(":")
    if kind not in ("auto", profile.device):
        raise UserError(
            f"backend.device = {wanted!r} with --profile {profile.name}",
            why=f"the profile's devices are {profile.device}",
            fix=f"--set backend.device={profile.device}, or another profile",
        )
    last = (int(index) if index.isdigit() else 0) + per_node  # an index is that of the first rank of a node
    if index.isdigit() and last > max(profile.devices_per_node, per_node):
        raise UserError(
            f"backend.device = {wanted!r}",
            why=f"{per_node} ranks from there on need {last} devices a node, and a node has {profile.devices_per_node}",
            fix=f"--set backend.device={kind}",
        )


def _check_words(command: tuple[str, ...], profile: str, site: Site) -> None:
    """Refuse what a script has no place for."""
    if any(not word.isprintable() for word in (*command, *site.setup, profile, str(site.workdir), str(site.log_dir))):
        raise UserError("a line break or control character", why="a script has no place for it", fix="drop it")
    for key in PLAIN:
        value = getattr(site, key)
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/+,-]*", value):
            raise UserError(
                f"{_option(key)} {value!r}", why="it stands in the script without quotes", fix="give a plain name"
            )


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")
