"""Kubernetes alone: an Indexed Job, whose pods have numbers and names, behind a headless Service.

Also what every scheduler on Kubernetes shares: names, and the pod.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from recrl.errors import UserError
from recrl.hardware.launch.plan import Plan, Scheduler
from recrl.hardware.launch.template import render, torchrun

PORT = 29500
RESOURCES = {"cuda": "nvidia.com/gpu", "npu": "huawei.com/Ascend910"}
"""Device -> what its maker's device plugin calls it."""
POD = frozenset({"image", "volume", "namespace", "memory", "resource", "node_selector", "label"})
"""What of a site a pod is made from."""
LONGEST_NAME = 50
"""Letters; the pod's number and the scheduler's own endings have to fit into a host name's 63."""


def script(plan: Plan) -> str:
    """A Service and a Job."""
    name = job_name(plan)
    command = torchrun(plan, f"{name}-0.{name}:{PORT}", "JOB_COMPLETION_INDEX")
    return render("k8s.yaml.j2", plan, name=name, pod=pod(plan, command), metadata=metadata(plan), labels=labels(plan))


def job_name(plan: Plan) -> str:
    """The plan's name as Kubernetes takes it: a DNS label."""
    name = re.sub(r"[._]", "-", plan.name.lower())
    if not re.fullmatch(rf"[a-z]([a-z0-9-]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?", name):
        raise UserError(
            f"the job's name {name!r}",
            why=f"Kubernetes takes lower-case letters, digits and '-', a letter first, {LONGEST_NAME} at most",
            fix="pass --name",
        )
    return name


def metadata(plan: Plan) -> dict[str, object]:
    """Of every object: its name, and the namespace and labels that the user gave."""
    found: dict[str, object] = {"name": job_name(plan)}
    if plan.site.namespace:
        found["namespace"] = plan.site.namespace
    if plan.site.label:
        found["labels"] = labels(plan)
    return found


def labels(plan: Plan) -> dict[str, str]:
    return pairs("label", plan.site.label)


def pod(plan: Plan, command: str) -> str:
    """The pod's spec as YAML, not indented."""
    image = plan.text("image", "a pod runs an image, which must hold recrl, torch for the device and torchrun")
    workdir = PurePosixPath(plan.text("workdir", "a pod has to be told where CONFIG and the run's folder are"))
    volume = plan.text("volume", "a pod that starts again must find its checkpoints: CLAIM:PATH of a shared volume")
    claim, _, mount = volume.partition(":")
    if not claim or not mount.startswith("/"):
        raise UserError(f"--volume {volume}", why="it is not CLAIM:PATH", fix="such as --volume team-disk:/workspace")
    if not (workdir / plan.keeps).is_relative_to(mount):
        raise UserError(
            f"the run's folder {workdir / plan.keeps}",
            why=f"it is not below {mount}, where the volume is: a pod that starts again would not find its checkpoints",
            fix="change --workdir, --volume or run.dir",
        )
    limits = {"cpu": plan.site.cpus, "memory": plan.site.memory}
    if plan.device == "cpu":
        plan.text("cpus", "without devices to ask for, nothing holds cores for a pod")
    else:
        limits[plan.site.resource or RESOURCES[plan.device]] = plan.devices_per_node
    values = {
        "image": image,
        "workdir": str(workdir),
        "claim": claim,
        "mount": mount,
        "limits": {key: str(value) for key, value in limits.items() if value is not None},
        "selector": pairs("node_selector", plan.site.node_selector),
        "torchrun": command,
    }
    return render("pod.yaml.j2", plan, **values)


def pairs(key: str, given: tuple[str, ...]) -> dict[str, str]:
    """``KEY=VALUE`` each -> a mapping."""
    for text in given:
        if not re.fullmatch(r"[^=]+=[^=]*", text):
            raise UserError(f"--{key.replace('_', '-')} {text}", why="it is not KEY=VALUE", fix="write KEY=VALUE")
    return dict(text.split("=") for text in given)


SCHEDULER = Scheduler("k8s", script, submit=("kubectl", "apply", "-f", "-"), takes=POD)
