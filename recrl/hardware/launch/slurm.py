"""Slurm: one sbatch script, a torchrun on every node through srun."""

from __future__ import annotations

from recrl.hardware.launch.plan import Plan, Scheduler
from recrl.hardware.launch.template import render, torchrun


def script(plan: Plan) -> str:
    """An sbatch script."""
    if plan.device == "cpu":
        plan.text("cpus", "without devices to ask for, Slurm gives a task one core")
    # A port by the job: nodes may be shared, and every run's first node listens.
    command = torchrun(plan, "$FIRST_NODE:$(( 20000 + SLURM_JOB_ID % 10000 ))", "SLURM_NODEID", "$SLURM_JOB_ID")
    return render("slurm.sh.j2", plan, torchrun=command)


SCHEDULER = Scheduler(
    "slurm",
    script,
    submit=("sbatch",),
    takes=frozenset({"account", "partition", "time", "memory", "resource"}),
)
