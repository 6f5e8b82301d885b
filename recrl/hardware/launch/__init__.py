"""Scripts that start a run on many devices: one file a scheduler, one table.

All of them end in torchrun, which starts a rank a device, lets the ranks of all nodes find each other and starts them
again when one fails. The scheduler gives nodes and starts them again when a node fails. A run that is started again
goes on with ``--resume``.
"""

from __future__ import annotations

from recrl.hardware.launch import k8s, slurm, torchrun, volcano
from recrl.hardware.launch.plan import Plan, Scheduler, Site, make_plan

SCHEDULERS: dict[str, Scheduler] = {
    row.name: row for row in (torchrun.SCHEDULER, slurm.SCHEDULER, k8s.SCHEDULER, volcano.SCHEDULER)
}

__all__ = ["SCHEDULERS", "Plan", "Scheduler", "Site", "make_plan"]
