"""Hand a script to its scheduler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from recrl.atomic import write_text
from recrl.errors import RunError, UserError
from recrl.hardware.launch.plan import Plan, Scheduler

FIX = {
    "sbatch": "call this on a login node of the cluster, or print the script and take it there",
    "kubectl": "install kubectl, or print the script and apply it where there is one",
    "torchrun": "install torch, which brings it",
}


def check_submit(plan: Plan, scheduler: Scheduler) -> None:
    """Whether the script can be handed on from here.

    Raises:
        UserError: the scheduler's program is not here, or one call would not start all nodes.
    """
    if scheduler.name == "torchrun" and plan.nodes > 1:
        raise UserError(
            f"--submit with torchrun on {plan.nodes} nodes",
            why="torchrun by hand starts the node that it is called on, and no other",
            fix="write the script with --out and run it on every node with its own NODE_RANK",
        )
    for program in {scheduler.submit[0], "torchrun"} if scheduler.name == "torchrun" else {scheduler.submit[0]}:
        if shutil.which(program, path=_path()) is None:
            raise UserError(f"--submit: {program} is not to be found", why="it starts the script", fix=FIX[program])


def write(path: Path, script: str) -> None:
    """Keep the script in a file.

    Raises:
        UserError: it can't be written.
    """
    try:
        write_text(path, script)
    except OSError as error:
        raise UserError(f"can't write {path}", why=error.strerror or str(error), fix="pass another --out") from None


def submit(script: str, scheduler: Scheduler) -> None:
    """Run the scheduler's program with the script as its input; its output goes where ours goes.

    Raises:
        RunError: the program failed; it has said why.
    """
    done = subprocess.run(scheduler.submit, input=script, text=True, check=False, env=os.environ | {"PATH": _path()})
    if done.returncode:
        raise RunError(
            f"{' '.join(scheduler.submit)} failed ({done.returncode})",
            why="it says so above",
            fix="mend that; what started before can go on, since the script resumes",
        )


def _path() -> str:
    """Programs of recrl's own environment first, also where nobody activated it."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
