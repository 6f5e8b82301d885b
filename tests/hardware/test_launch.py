"""Plans and the scripts made from them, read by the tools that read them in earnest where these are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from recrl.config import RunConfig, check
from recrl.errors import UserError
from recrl.hardware.launch import SCHEDULERS, Plan, Site, make_plan
from recrl.hardware.launch.environment import variables
from recrl.hardware.profiles import Profile, load_profile

COMMAND = ("recrl", "rl", "my run.toml", "--resume", "--set", "rl.steps=$HOME")
"""Words that a shell would take apart or fill in if they were not quoted."""
POD = {"image": "registry.example/recrl:1", "volume": "disk:/shared", "workdir": Path("/shared/me")}
ENOUGH: dict[str, dict[str, Any]] = {
    "torchrun": {"rendezvous": "node0:29500", "workdir": Path("/shared/it is here")},
    "slurm": {"account": "team", "partition": "gpu", "time": "24:00:00", "memory": "900G", "workdir": Path("/shared")},
    "k8s": {**POD, "namespace": "ml", "memory": "512Gi", "label": ("team=rec",), "node_selector": ("disk=ssd",)},
    "volcano": {**POD, "queue": "research", "label": ("ring-controller.atlas=ascend-910b",)},
}
"""Scheduler -> a site that says all that it can be told."""
CPU = Profile(name="two", device="cpu", measured=True, devices_per_node=2, nodes=2)
PROFILES = {"cpu": CPU, "cuda": load_profile("h100-64"), "npu": load_profile("ascend-910b3-64")}


def run(**sections: Any) -> RunConfig:
    return check({"run": {"name": "first_run"}, **sections}, "test")


def plan_of(site: dict[str, Any], device: str = "cuda", tensor_parallel: int = 1, **more: Any) -> Plan:
    config = run(backend={"engine": "megatron", "tensor_parallel": tensor_parallel})
    return make_plan(config, PROFILES[device], "rl", COMMAND, Site(**{"cpus": 96} | site), **more)


def script(scheduler: str, device: str = "cuda", site: dict[str, Any] | None = None, **more: Any) -> str:
    return SCHEDULERS[scheduler].render(plan_of(ENOUGH[scheduler] if site is None else site, device, **more))


def documents(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


def shell(scheduler: str, text: str) -> str:
    """The shell script that a scheduler's text holds."""
    if scheduler in ("torchrun", "slurm"):
        return text
    job = documents(text)[-1]["spec"]
    pod = (job["tasks"][0] if scheduler == "volcano" else job)["template"]["spec"]
    return str(pod["containers"][0]["args"][0])


everywhere = pytest.mark.parametrize("scheduler", SCHEDULERS)
on_every_device = pytest.mark.parametrize("device", PROFILES)


@everywhere
@on_every_device
def test_every_script_is_shell(scheduler: str, device: str):
    text = shell(scheduler, script(scheduler, device, {**ENOUGH[scheduler], "setup": ("source /opt/set_env.sh",)}))
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@everywhere
@on_every_device
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing(scheduler: str, device: str):
    text = shell(scheduler, script(scheduler, device))
    # SC2016 asks whether '$HOME' was meant to be filled in: it was not, and that is why it stands in single quotes.
    command = ["shellcheck", "--shell=bash", "--exclude=SC2016", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@everywhere
@on_every_device
def test_every_line_of_the_environment_has_its_reason(scheduler: str, device: str):
    lines = shell(scheduler, script(scheduler, device)).splitlines()
    exports = [number for number, line in enumerate(lines) if line.startswith("export ") and "=" in line]
    assert len(exports) >= 2
    assert [lines[number] for number in exports if not lines[number - 1].startswith("# ")] == []


@everywhere
def test_nodes_and_devices_are_the_profile_s_and_a_restart_resumes(scheduler: str):
    text = shell(scheduler, script(scheduler))
    assert "--nnodes=8 --nproc-per-node=8" in text
    assert "--max-restarts=3" in text
    assert "--no-python recrl rl 'my run.toml' --resume --set 'rl.steps=$HOME'" in text


@everywhere
def test_nodes_and_devices_of_ones_own_win(scheduler: str):
    text = shell(scheduler, script(scheduler, nodes=3, devices_per_node=4))
    assert "--nnodes=3 --nproc-per-node=4" in text


@pytest.mark.parametrize(
    ("device", "present", "absent"),
    [
        ("cpu", "GLOO_SOCKET_IFNAME", ("NCCL", "HCCL")),
        ("cuda", "NCCL_SOCKET_IFNAME", ("HCCL",)),
        ("npu", "HCCL_SOCKET_IFNAME", ("NCCL",)),
    ],
)
def test_a_device_gets_the_variables_of_its_own_library(device: str, present: str, absent: tuple[str, ...]):
    names = {variable.name: variable.value for variable in variables(device, 8, interface="ib0")}
    assert names[present] == "ib0"
    assert not [name for name in names for other in absent if re.search(rf"(^|_){other}_", name)]


def test_cores_are_shared_out_to_the_ranks():
    assert "${OMP_NUM_THREADS:-12}" in {variable.value for variable in variables("cuda", 8, cpus=96)}
    assert "${OMP_NUM_THREADS:-1}" in {variable.value for variable in variables("cuda", 8, cpus=4)}


def test_an_npu_asks_for_cann_and_reads_its_lines_before_it_gets_strict():
    text = script("torchrun", "npu", {**ENOUGH["torchrun"], "setup": ("source /opt/set_env.sh",)})
    assert text.index("source /opt/set_env.sh") < text.index("set -euo pipefail") < text.index("ASCEND_HOME_PATH")


# Slurm

SBATCH = {
    "account", "chdir", "cpus-per-task", "gpus-per-node", "gres", "job-name", "mem", "nodes", "ntasks-per-node",
    "open-mode", "output", "partition", "requeue", "signal", "time",
}  # fmt: skip
"""Options of sbatch(1) that we write, device and site taken together."""


def sbatch(text: str) -> dict[str, str]:
    """Options of the #SBATCH lines; Slurm reads them up to the first line that is no comment."""
    head = text[: text.index("\nset ")]
    assert text.count("#SBATCH") == head.count("#SBATCH")
    found = [re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line) for line in head.splitlines() if "#SBATCH" in line]
    return {match[1]: match[2] or "" for match in found if match}


@on_every_device
def test_sbatch_lines_are_options_of_sbatch(device: str):
    text = script("slurm", device)
    options = sbatch(text)
    assert len(options) == text.count("#SBATCH")
    assert options.keys() <= SBATCH
    nodes = PROFILES[device].nodes
    assert (options["nodes"], options["ntasks-per-node"]) == (str(nodes), "1"), "one torchrun a node starts its ranks"


@pytest.mark.parametrize(
    ("device", "key", "value"),
    [("cuda", "gpus-per-node", "8"), ("npu", "gres", "npu:8"), ("cpu", "cpus-per-task", "96")],
)
def test_slurm_is_asked_for_the_devices(device: str, key: str, value: str):
    options = sbatch(script("slurm", device))
    assert options[key] == value
    assert {"gpus-per-node", "gres"} & options.keys() == {key} - {"cpus-per-task"}


def test_slurm_is_asked_for_devices_by_the_name_that_a_site_gives_them():
    assert sbatch(script("slurm", "npu", {"resource": "ascend"}))["gres"] == "ascend:8"


def test_slurm_takes_a_job_back_into_its_queue_only_where_its_time_ends():
    assert "scontrol requeue" in script("slurm")
    endless = script("slurm", site={})
    assert "requeue" in sbatch(endless), "a lost node starts the job again"
    assert "scontrol requeue" not in endless
    assert "signal" not in sbatch(endless)


# Kubernetes


@on_every_device
def test_kubernetes_takes_service_and_job(device: str):
    validate = pytest.importorskip("kubernetes_validate")
    found = documents(script("k8s", device))
    assert [document["kind"] for document in found] == ["Service", "Job"]
    for document in found:
        validate.validate(document, validate.latest_version(), strict=True)


@on_every_device
def test_the_pod_of_volcano_is_one_of_kubernetes(device: str):
    validate = pytest.importorskip("kubernetes_validate")
    for task in documents(script("volcano", device))[0]["spec"]["tasks"]:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": task["template"]["spec"]}
        validate.validate(pod, validate.latest_version(), strict=True)


@pytest.mark.parametrize("scheduler", ["k8s", "volcano"])
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_reads_it(scheduler: str):
    # --local: without a cluster.
    command = ["kubectl", "label", "--local", "-f", "-", "read=yes", "-o", "name"]
    done = subprocess.run(command, input=script(scheduler), capture_output=True, text=True, check=False)
    wanted = {"k8s": ["service/first-run-rl", "job.batch/first-run-rl"]}
    assert done.stdout.split() == wanted.get(scheduler, ["job.batch.volcano.sh/first-run-rl"]), done.stderr


def test_pods_find_the_first_one_through_the_service():
    service, job = documents(script("k8s"))
    name, spec = service["metadata"]["name"], job["spec"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}, "the label that Kubernetes gives pods"
    assert spec["template"]["spec"]["subdomain"] == name
    assert f'--rdzv-endpoint="{job["metadata"]["name"]}-0.{name}:29500"' in shell("k8s", script("k8s"))
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 8, 8)
    assert spec["backoffLimit"] == 24, "three failures of all eight"


@pytest.mark.parametrize(
    ("device", "name", "site"),
    [
        ("cuda", "nvidia.com/gpu", {}),
        ("npu", "huawei.com/Ascend910", {}),
        ("npu", "huawei.com/ascend-1980", {"resource": "huawei.com/ascend-1980"}),
    ],
)
def test_devices_are_asked_for_by_the_plugin_s_name(device: str, name: str, site: dict[str, Any]):
    job = documents(script("k8s", device, POD | site))[1]
    limits = job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {name: "8", "cpu": "96"}


def test_labels_and_namespace_are_where_kubernetes_looks_for_them():
    service, job = documents(script("k8s"))
    assert (
        service["metadata"]
        == job["metadata"]
        == {
            "name": "first-run-rl",
            "namespace": "ml",
            "labels": {"team": "rec"},
        }
    )
    assert job["spec"]["template"]["metadata"]["labels"] == {"team": "rec"}
    assert job["spec"]["template"]["spec"]["nodeSelector"] == {"disk": "ssd"}


# Volcano: fields, events and actions of batch.volcano.sh/v1alpha1, as its documentation has them


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Policy(Strict):
    event: Literal["*", "PodFailed", "PodEvicted", "Unknown", "TaskCompleted", "TaskFailed"]
    action: Literal["AbortJob", "RestartJob", "RestartTask", "TerminateJob", "CompleteJob", "ResumeJob"]


class Template(Strict):
    metadata: dict[str, Any] = {}
    spec: dict[str, Any]


class Task(Strict):
    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    replicas: int = Field(ge=0)
    minAvailable: int | None = None  # noqa: N815
    policies: list[Policy] = []
    template: Template


class Spec(Strict):
    schedulerName: str  # noqa: N815
    minAvailable: int  # noqa: N815
    maxRetry: int = Field(ge=0)  # noqa: N815
    queue: str = "default"
    plugins: dict[Literal["env", "svc", "ssh", "pytorch"], list[str]]
    policies: list[Policy]
    tasks: list[Task]


class Job(Strict):
    apiVersion: Literal["batch.volcano.sh/v1alpha1"]  # noqa: N815
    kind: Literal["Job"]
    metadata: dict[str, Any]
    spec: Spec


@on_every_device
@pytest.mark.parametrize("nodes", [1, 8])
def test_volcano_starts_all_pods_or_none(device: str, nodes: int):
    spec = Job.model_validate(documents(script("volcano", device, nodes=nodes))[0]).spec
    assert spec.minAvailable == sum(task.replicas for task in spec.tasks) == nodes
    assert [task.name for task in spec.tasks] == ["master", "worker"][: min(nodes, 2)]
    assert all(task.template == spec.tasks[0].template for task in spec.tasks)
    assert spec.queue == "research"


def test_volcano_s_plugin_knows_the_tasks_and_the_port_by_the_names_that_the_script_uses():
    text = script("volcano")
    spec = Job.model_validate(documents(text)[0]).spec
    assert spec.plugins["pytorch"] == ["--master=master", "--worker=worker", "--port=29500"]
    assert '--rdzv-endpoint="$MASTER_ADDR:$MASTER_PORT"' in shell("volcano", text)


# What can't be


@pytest.mark.parametrize(
    ("scheduler", "site", "more", "words"),
    [
        ("torchrun", {}, {}, "--rendezvous is missing"),
        ("torchrun", {"rendezvous": "node0:29500"}, {}, "--workdir is missing"),
        ("torchrun", ENOUGH["torchrun"] | {"rendezvous": "node0"}, {}, "it is not HOST:PORT"),
        ("torchrun", {"image": "x"}, {"nodes": 1}, "--image with --scheduler torchrun"),
        ("slurm", {"queue": "x"}, {}, "--queue with --scheduler slurm"),
        ("slurm", {"cpus": None}, {"device": "cpu"}, "--cpus is missing"),
        ("k8s", {}, {}, "--image is missing"),
        ("k8s", {"image": "x"}, {}, "--workdir is missing"),
        ("k8s", {"image": "x", "workdir": Path("/shared")}, {}, "--volume is missing"),
        ("k8s", POD | {"volume": "disk"}, {}, "it is not CLAIM:PATH"),
        ("k8s", POD | {"workdir": Path("/home/me")}, {}, "would not find its checkpoints"),
        ("k8s", POD | {"label": ("team",)}, {}, "--label team"),
        ("k8s", POD | {"name": "x" * 51}, {}, "50 at most"),
        ("k8s", POD | {"cpus": None}, {"device": "cpu"}, "--cpus is missing"),
        ("k8s", POD | {"partition": "x"}, {}, "--partition with --scheduler k8s"),
        ("volcano", {"image": "x"}, {}, "--workdir is missing"),
        ("slurm", {"setup": ("one\ntwo",)}, {}, "a line break"),
        ("slurm", {"partition": "a b"}, {}, "--partition 'a b'"),
        ("slurm", {"interface": "$(id)"}, {}, "without quotes"),
        ("slurm", {}, {"tensor_parallel": 3}, "take one of 1, 2, 4, 8"),
        ("slurm", {}, {"tensor_parallel": 16}, "does not divide the 8 devices"),
    ],
)
def test_what_can_t_be_is_told(scheduler: str, site: dict[str, Any], more: dict[str, Any], words: str):
    with pytest.raises(UserError) as caught:
        script(scheduler, site=site, **more)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("device", "words"),
    [("npu", "the profile's devices are cuda"), ("cuda:1", "need 9 devices a node, and a node has 8")],
)
def test_a_config_for_another_device_is_told(device: str, words: str):
    with pytest.raises(UserError, match=words):
        make_plan(run(backend={"device": device}), PROFILES["cuda"], "rl", COMMAND, Site())


def test_one_rank_may_take_one_device():
    config, node = run(backend={"device": "cuda:7"}), load_profile("h100-8")
    plan = make_plan(config, node, "sft", COMMAND, Site(), devices_per_node=1)
    assert (plan.nodes, plan.devices_per_node, plan.name) == (1, 1, "first_run-sft")


def test_megatron_s_order_of_kernels_comes_with_tensor_parallelism_alone():
    name = 'CUDA_DEVICE_MAX_CONNECTIONS="1"'
    assert name in script("slurm", tensor_parallel=8)
    assert name not in script("slurm")
