"""Templates -> text."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from recrl.hardware.launch.plan import Plan

WAIT_S = 1800
"""Seconds that the first node waits for the last one: images are pulled and queues are passed one by one."""


def render(template: str, plan: Plan, **values: Any) -> str:
    """A template of this folder, filled in.

    Filters: ``sh`` quotes for a shell, ``yaml`` for YAML (where every JSON text is one).
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # late: `--help` needs none of it

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"sh": lambda value: shlex.quote(str(value)), "yaml": json.dumps}
    return environment.get_template(template).render(plan=plan, site=plan.site, wait_s=WAIT_S, **values)


def torchrun(plan: Plan, endpoint: str, rank: str | None, job: str | None = None) -> str:
    """The torchrun command of one node.

    c10d, not the static rendezvous: with that one, nodes would not hear of each other's restarts.

    Args:
        endpoint: where the nodes meet, HOST:PORT as shell text.
        rank: the node's number as shell text; None where there is one node.
        job: what tells this run's meeting from another's, as shell text; None: the plan's name.
    """
    return render("torchrun.j2", plan, endpoint=endpoint, rank=rank, job=job or plan.name)
