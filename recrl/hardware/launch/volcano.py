"""Volcano: a Job of its own kind, whose pods all start or none (gang scheduling)."""

from __future__ import annotations

from recrl.hardware.launch.k8s import POD, PORT, labels, metadata, pod
from recrl.hardware.launch.plan import Plan, Scheduler
from recrl.hardware.launch.template import render, torchrun


def script(plan: Plan) -> str:
    """A Volcano Job. Its pytorch plugin tells every pod where the first one is, and its number."""
    spec = pod(plan, torchrun(plan, "$MASTER_ADDR:$MASTER_PORT", "RANK"))
    return render("volcano.yaml.j2", plan, port=PORT, pod=spec, metadata=metadata(plan), labels=labels(plan))


SCHEDULER = Scheduler("volcano", script, submit=("kubectl", "apply", "-f", "-"), takes=POD | {"queue"})
