"""The scripts really start ranks: on CPU through gloo, on one node and on two that are both this machine.

What the schedulers give (srun, environment variables of pods) is played by the test; the scripts are run as they are.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from runs import metrics, run_config, write_world

from recrl.config import check
from recrl.hardware.launch import SCHEDULERS, Site, make_plan
from recrl.hardware.profiles import Profile

RANKS = """
import json, os, pathlib, sys, time
import torch
import torch.distributed as dist

folder = pathlib.Path(sys.argv[1])
dist.init_process_group("gloo")
total = torch.tensor(float(dist.get_rank() + 1))
dist.all_reduce(total)
restart = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
if restart < int(sys.argv[2]) and dist.get_rank() == 1:
    sys.exit("rank 1 fails")
threads = os.environ["OMP_NUM_THREADS"]
found = {"sum": total.item(), "world": dist.get_world_size(), "restart": restart, "threads": threads}
waits = (folder / "wait").exists()
(folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(found))
while waits:
    dist.all_reduce(total)
    time.sleep(0.05)
dist.barrier()
dist.destroy_process_group()
"""
"""Every rank adds 1 + its number to a common sum and writes it down; rank 1 fails as often as it is told.
While there is a file "wait" at that moment, it goes on until it is killed or its peer is gone."""

SRUN = """#!/usr/bin/env bash
# Plays srun on two nodes: the same command once for each, and the worst exit code.
[ "$1" = --kill-on-bad-exit=1 ] && shift
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" & second=$!
wait "$first" && wait "$second"
"""
BRIEF = {"epochs": 10, "checkpoint_every": 2, "eval_every": 40, "patience": 0}
"""Checkpoints early and often, little else."""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """torchrun of this environment on the path, and one thread a rank."""
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def script(scheduler: str, folder: Path, site: dict[str, Any], nodes: int, ranks: int, fails: int = 0) -> str:
    """A script whose ranks run ``RANKS``."""
    (folder / "ranks.py").write_text(RANKS)
    profile = Profile(name="here", device="cpu", measured=True, devices_per_node=ranks, nodes=nodes)
    command = (sys.executable, str(folder / "ranks.py"), str(folder), str(fails))
    config = check({"run": {"dir": str(folder / "runs")}}, "test")
    plan = make_plan(config, profile, "rl", command, Site(workdir=folder, **site))
    return SCHEDULERS[scheduler].render(plan)


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Starts a script with further variables. None outlives the test: a node whose peer has failed waits for it."""
    started: list[subprocess.Popen[str]] = []

    def call(text: str, **more: str) -> subprocess.Popen[str]:
        node = subprocess.Popen(
            ["bash", "-c", text],
            env=environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(node)
        return node

    yield call
    for node in started:
        if node.poll() is None:
            kill(node)
        node.wait()


def kill(node: subprocess.Popen[str]) -> None:
    """torchrun and its ranks, all at once, as when a machine is gone."""
    agent = psutil.Process(node.pid)
    for process in (*agent.children(), agent):
        process.kill()


def finish(*nodes: subprocess.Popen[str]) -> list[str]:
    """Outputs of scripts that have to end well."""
    outputs = [node.communicate(timeout=280)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0] * len(nodes), "\n".join(outputs)
    return outputs


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


def test_ranks_of_a_node_meet_and_start_again_when_one_fails(tmp_path: Path, start: Start):
    text = script("torchrun", tmp_path, {"restarts": 1}, nodes=1, ranks=2, fails=1)
    finish(start(text))
    assert written(tmp_path) == [{"sum": 3.0, "world": 2, "restart": 1, "threads": "1"}] * 2
    logs = {path.parts[-3:]: path.read_text() for path in (tmp_path / "runs/run/logs/rl").rglob("*.log")}
    assert "rank 1 fails" in logs["attempt_0", "1", "stderr.log"], "every rank's words are kept, attempt by attempt"
    assert ("attempt_1", "1", "stderr.log") in logs


def test_a_rank_that_goes_on_failing_ends_the_script(tmp_path: Path, start: Start):
    node = start(script("torchrun", tmp_path, {"restarts": 0}, nodes=1, ranks=2, fails=1))
    output = node.communicate(timeout=280)[0]
    assert node.returncode != 0
    assert "rank1" not in {path.stem for path in tmp_path.glob("rank*.json")}, output


def test_nodes_meet_by_hand(tmp_path: Path, start: Start, port: int):
    text = script("torchrun", tmp_path, {"rendezvous": f"localhost:{port}"}, nodes=2, ranks=1)
    finish(*(start(text, NODE_RANK=str(node)) for node in (1, 0)))  # the second one first: it waits
    assert written(tmp_path) == [{"sum": 3.0, "world": 2, "restart": 0, "threads": "1"}] * 2


def test_a_node_without_its_number_says_so(tmp_path: Path, start: Start, port: int):
    node = start(script("torchrun", tmp_path, {"rendezvous": f"localhost:{port}"}, nodes=2, ranks=1))
    assert "NODE_RANK=0 on the first one to NODE_RANK=1 on the last" in node.communicate()[0]
    assert node.returncode != 0


def test_nodes_of_slurm_meet(tmp_path: Path, start: Start, port: int):
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/sh\nprintf '%s\\n' localhost elsewhere\n"}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    text = script("slurm", tmp_path, {"cpus": 1}, nodes=2, ranks=1)
    job = str(port if port < 10000 else port % 10000 + 10000)  # from which the script makes its own port
    finish(start(text, SLURM_JOB_ID=job, SLURM_JOB_NODELIST="node[0-1]"))
    assert [rank["sum"] for rank in written(tmp_path)] == [3.0, 3.0]


def test_slurm_s_signal_sends_the_job_back_into_the_queue(tmp_path: Path, start: Start):
    (tmp_path / "bin").mkdir()
    fakes = {
        "srun": "#!/bin/sh\necho $$ > srun.pid.tmp && mv srun.pid.tmp srun.pid\nexec sleep 100\n",
        "scontrol": '#!/bin/sh\necho "$@" >> asked\n[ "$1" = show ] || kill $(cat srun.pid)\n',
    }
    for name, text in fakes.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    text = script("slurm", tmp_path, {"cpus": 1, "time": "1:00:00"}, nodes=1, ranks=1)
    job = start(f"cd {tmp_path}\n{text}", SLURM_JOB_ID="7", SLURM_JOB_NODELIST="node0")
    wait_for(tmp_path / "srun.pid", job)
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=60)
    assert (tmp_path / "asked").read_text().splitlines()[-1] == "requeue 7"


def pod_script(scheduler: str, folder: Path, port: int) -> str:
    """What a pod of two runs, with a name that is found here for the one that the cluster would know."""
    site = {"image": "none", "volume": f"disk:{folder}", "cpus": 1}
    found = list(yaml.safe_load_all(script(scheduler, folder, site, nodes=2, ranks=1)))[-1]["spec"]
    pod = (found["tasks"][0] if scheduler == "volcano" else found)["template"]["spec"]
    return re.sub(r"run-rl-0\.run-rl:\d+", f"localhost:{port}", pod["containers"][0]["args"][0])


@pytest.mark.parametrize("scheduler", ["k8s", "volcano"])
def test_pods_meet(scheduler: str, tmp_path: Path, start: Start, port: int):
    text = pod_script(scheduler, tmp_path, port)
    given = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)} if scheduler == "volcano" else {}
    number = "RANK" if scheduler == "volcano" else "JOB_COMPLETION_INDEX"
    finish(*(start(text, **given, **{number: str(index)}) for index in (0, 1)))
    assert [rank["sum"] for rank in written(tmp_path)] == [3.0, 3.0]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_pod_that_is_lost_is_replaced(lost: int, tmp_path: Path, start: Start, port: int):
    """The other waits for its successor; without the first one, where all meet, it ends and is replaced as well."""
    text = pod_script("k8s", tmp_path, port)
    (tmp_path / "wait").touch()
    pods = [start(text, JOB_COMPLETION_INDEX=str(index)) for index in (0, 1)]
    for index in (0, 1):
        wait_for(tmp_path / f"rank{index}.json", pods[index])
    for path in (tmp_path / "wait", *tmp_path.glob("rank*.json")):
        path.unlink()
    kill(pods[lost])
    if lost == 0:
        assert pods[1].wait(timeout=280) != 0
        pods[1] = start(text, JOB_COMPLETION_INDEX="1")
    pods[lost] = start(text, JOB_COMPLETION_INDEX=str(lost))
    finish(*pods)
    assert [rank["sum"] for rank in written(tmp_path)] == [3.0, 3.0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("launched"))


def wait_for(path: Path, node: subprocess.Popen[str]) -> None:
    """Until a script has made a file."""
    while not path.exists():
        assert node.poll() is None, node.stdout and node.stdout.read()
        time.sleep(0.05)


def test_a_run_that_lost_a_rank_goes_on_from_its_checkpoint(world: Path, tmp_path: Path, start: Start):
    config = run_config(world, tmp_path / "runs", sft=BRIEF)
    path = tmp_path / "run.toml"
    path.write_text(config.to_toml())
    profile = Profile(name="here", device="cpu", measured=True, devices_per_node=2)
    plan = make_plan(config, profile, "sft", ("recrl", "sft", str(path), "--resume"), Site(restarts=1))
    node = start(SCHEDULERS["torchrun"].render(plan))
    stage = config.folder / "sft"
    wait_for(stage / "latest", node)
    _, second = psutil.Process(node.pid).children()
    second.kill()
    (output,) = finish(node)
    assert json.loads((stage / "status.json").read_text())["state"] == "finished", output
    steps = [line["step"] for line in metrics(stage) if "sft/loss" in line]
    assert steps == list(range(1, len(steps) + 1)), "no step twice, none left out"
    assert len(list(config.folder.rglob("attempt_1"))) == 1, "both were started a second time"
