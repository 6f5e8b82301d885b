"""torchrun by hand: the script runs once on every node."""

from __future__ import annotations

import re

from recrl.errors import UserError
from recrl.hardware.launch.plan import Plan, Scheduler
from recrl.hardware.launch.template import render
from recrl.hardware.launch.template import torchrun as torchrun_command


def script(plan: Plan) -> str:
    """A bash script; of several nodes each runs it with its own ``NODE_RANK``."""
    if plan.nodes == 1:
        return render("torchrun.sh.j2", plan, torchrun=torchrun_command(plan, "localhost:0", None))
    meeting = plan.text("rendezvous", f"{plan.nodes} nodes must know where to meet: HOST:PORT of the first one")
    if not re.fullmatch(r"[A-Za-z0-9._-]+:\d{1,5}", meeting):
        raise UserError(f"--rendezvous {meeting}", why="it is not HOST:PORT", fix="such as --rendezvous node0:29500")
    plan.text("workdir", "the nodes read CONFIG and keep checkpoints below one folder that all of them see")
    return render("torchrun.sh.j2", plan, torchrun=torchrun_command(plan, meeting, "NODE_RANK"))


SCHEDULER = Scheduler("torchrun", script, submit=("bash",), takes=frozenset({"rendezvous"}))
