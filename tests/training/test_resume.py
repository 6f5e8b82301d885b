"""A run killed with SIGKILL at any moment and resumed ends as one that was never killed, bit for bit.

Runs are processes of their own that call the command line; they are forked from a server that has loaded torch, so a
launch takes a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from runs import command, metrics, run_config, silent

from recrl.config import RunConfig
from recrl.store import checkpoint
from recrl.training.rl import train_rl

SFT = {
    "model": {"dropout": 0.1},
    "sft": {
        "epochs": 2,
        "ema_decay": 0.9,
        "held_out": 0.3,
        "target_weight_power": 0.5,
        "eval_every": 4,
        "checkpoint_every": 3,
        "patience": 0,
        "teacher": {"weight": 0.5, "prompts": 8, "responses": 4},
        "augment": {"shuffle": 0.5, "drop": 0.1, "reverse": 0.2, "crop": 0.2},
    },
}
RL = {
    "steps": 6,
    "epochs": 2,
    "mini_batches": 2,
    "checkpoint_every": 1,
    "eval_every": 3,
    "patience": 0,
    "warmup_steps": 4,
    "lr": 1e-3,
    "max_gen_batches": 3,
    "rollout": {"kind": "sample", "group_size": 6, "slate_size": 2},
    "rewards": [{"kind": "hit"}, {"kind": "valid_distinct"}],
    "signal": {"kind": "decoupled"},
    "objective": {"kind": "sage", "kl_beta": 0.05},
}
"""What keeps a state of its own between steps: the moving average of entropies, prompts drawn by further rollouts."""


class Runner:
    """Launches one stage of a config that lies below ``runs``."""

    def __init__(self, stage: str, config: RunConfig) -> None:
        self.stage = stage
        self.folder = config.folder / stage
        self.file = config.run.dir / f"{stage}.toml"
        config.run.dir.mkdir(parents=True, exist_ok=True)
        self.file.write_text(config.to_toml())
        self.server = multiprocessing.get_context("forkserver")
        self.server.set_forkserver_preload(["recrl.training.rl", "recrl.training.sft"])

    def launch(self, *flags: str) -> BaseProcess:
        process = self.server.Process(target=command, args=([self.stage, str(self.file), *flags],))
        process.start()
        return process

    def finish(self, *flags: str) -> None:
        process = self.launch(*flags)
        process.join(120)
        assert process.exitcode == 0

    def kill_when(self, moment: Callable[[], bool], *flags: str) -> bool:
        """Kill the run as soon as ``moment`` says so; False where it ended before."""
        process = self.launch(*flags)
        while process.is_alive() and not moment():
            time.sleep(0.001)
        process.kill()
        process.join(30)
        return process.exitcode == -signal.SIGKILL

    def lines(self) -> int:
        """Lines of metrics so far."""
        file = self.folder / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def is_writing(self) -> bool:
        """A checkpoint is half written: its hidden folder is there."""
        return any((self.folder / "checkpoints").glob(".step-*"))

    def steps(self) -> list[str]:
        return [path.name for path in checkpoint.steps(self.folder / "checkpoints")]

    def result(self) -> tuple[dict[str, bytes], list[dict[str, float]]]:
        """The weights and the trainer's state in every checkpoint that is left, and the metrics without clocks."""
        tensors = {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted((self.folder / "checkpoints").rglob("*.safetensors"))
        }
        return tensors, metrics(self.folder)


def config_of(stage: str, world: Path, trained: Path, runs: Path) -> RunConfig:
    sections: dict[str, Any] = SFT if stage == "sft" else {"rl": {**RL, "init": str(trained)}}
    return run_config(world, runs, **sections)


@pytest.fixture(scope="module", params=["sft", "rl"])
def whole(
    request: pytest.FixtureRequest, world: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runner:
    """A run that nobody killed."""
    runner = Runner(request.param, config_of(request.param, world, trained, tmp_path_factory.mktemp("whole")))
    runner.finish()
    return runner


@pytest.fixture
def fresh(whole: Runner, world: Path, trained: Path, tmp_path: Path) -> Runner:
    """The same run, not begun."""
    stage = whole.stage
    return Runner(stage, config_of(stage, world, trained, tmp_path))


def test_two_runs_that_nobody_killed_are_equal(whole: Runner, fresh: Runner) -> None:
    fresh.finish()
    assert fresh.result() == whole.result()
    tensors, lines = whole.result()
    assert len(tensors) >= 4
    assert lines[-1]["step"] >= 6


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_it_ends_the_same(whole: Runner, fresh: Runner, seed: int) -> None:
    moments = random.Random(seed)
    last = int(whole.result()[1][-1]["step"])
    kills = 0
    while kills < 3:
        step, delay_s = moments.randrange(last), moments.uniform(0, 0.06)

        def later(step: int = step, delay_s: float = delay_s) -> bool:
            reached = fresh.lines() >= step
            time.sleep(delay_s if reached else 0)
            return reached

        if fresh.kill_when(later, "--resume"):
            kills += 1
        else:  # it ended before the kill: begin anew
            shutil.rmtree(fresh.folder)
    fresh.finish("--resume")
    assert fresh.result() == whole.result()
    assert not fresh.is_writing()


def test_killed_while_it_writes_checkpoints_it_ends_the_same(whole: Runner, fresh: Runner) -> None:
    moments = random.Random(5)
    half_written = 0
    while half_written < 2:
        delay_s = moments.uniform(0, 0.01)

        def soon(delay_s: float = delay_s) -> bool:
            found = fresh.is_writing()
            time.sleep(delay_s if found else 0)
            return found

        for left in (fresh.folder / "checkpoints").glob(".step-*"):  # it would end the wait at once
            shutil.rmtree(left)
        if not fresh.kill_when(soon, "--resume"):
            shutil.rmtree(fresh.folder)
        half_written += fresh.is_writing()
    fresh.finish("--resume")
    assert fresh.result() == whole.result()
    assert not fresh.is_writing()
    assert (fresh.folder / "latest").resolve().name == fresh.steps()[-1]


def test_resuming_a_finished_run_changes_nothing(whole: Runner) -> None:
    before = {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}
    whole.finish("--resume")
    after = {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {"status.json"}  # its clock


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_run_ends_the_same(whole: Runner, fresh: Runner) -> None:
    shutil.copytree(whole.folder, fresh.folder, symlinks=True)
    (fresh.folder / "config.toml").write_text(fresh.file.read_text())  # run.dir differs
    newest = fresh.folder / "checkpoints" / fresh.steps()[-1]
    content = bytearray((newest / "trainer.safetensors").read_bytes())
    content[-5] ^= 1
    (newest / "trainer.safetensors").write_bytes(bytes(content))
    assert fresh.result() != whole.result()
    fresh.finish("--resume")
    assert fresh.result() == whole.result()


def test_a_signal_with_a_state_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(
    world: Path, trained: Path, tmp_path: Path
) -> None:
    repair = {"kind": "recast", "repair": "linear", "repair_decay": 0.5}
    config = run_config(
        world, tmp_path, rl={"init": str(trained), "steps": 4, "keep": 9, "checkpoint_every": 1, "signal": repair}
    )
    runner = Runner("rl", config)
    train_rl(config, silent)
    whole = runner.result()
    places = checkpoint.steps(runner.folder / "checkpoints")
    states = [checkpoint.read(place).state["signal"] for place in places]
    assert len({state.get("trainable") for state in states}) >= 4  # a moving average, and nothing at the start
    for place in places[3:]:
        shutil.rmtree(place)
    train_rl(config, silent, resume=True)
    assert runner.result() == whole
    assert [checkpoint.read(place).state["signal"] for place in places] == states
