"""Whole runs on the fake NPU end as those on CPU: a tensor made on the wrong device stops them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.launching import run_ranks
from fake_npu import ascend, parts, scenario
from fake_npu.process import COMMAND, HERE, SITE, FakeNpu
from runs import metrics, write_world
from safetensors.torch import load_file

from recrl.store import checkpoint

RUNS = {"sft": "sft", "beam": "rl", "recast": "rl", "slates": "rl", "resumed": "rl"}
"""Run of the scenario -> its stage."""
MODULE = "import runpy, sys; sys.argv.pop(0); runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
AT_A_BOUND = "actor/clip_ratio"
"""A count of ratios beyond a bound, which a ratio of 1 + 1e-7 may be or not."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def on_cpu(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The scenario's runs, and what else it found."""
    folder = tmp_path_factory.mktemp("cpu")
    return folder, scenario.run(world, folder, "cpu")


@pytest.fixture(scope="module")
def on_npu(npu: FakeNpu, world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The same on the device, which ``auto`` has to find."""
    folder = tmp_path_factory.mktemp("npu")
    npu.run(MODULE, "fake_npu.scenario", str(world), str(folder), "auto", folder=folder)
    return folder, json.loads((folder / "scenario.json").read_text())


def alike(value: dict[str, float], other: dict[str, float]) -> None:
    """Equal but for the rounding of other kernels, which optimiser steps enlarge."""
    assert value == pytest.approx(other, rel=2e-3, abs=1e-4)


def same_lines(stage: Path, other: Path) -> None:
    """Two stages logged the same."""
    lines, others = metrics(stage), metrics(other)
    assert len(lines) == len(others) > 1
    for line, wanted in zip(lines, others, strict=True):
        alike(line, wanted)


@pytest.mark.parametrize("name", RUNS)
def test_every_metric_is_that_of_cpu(on_cpu: tuple[Path, Any], on_npu: tuple[Path, Any], name: str) -> None:
    same_lines(on_npu[0] / name / RUNS[name], on_cpu[0] / name / RUNS[name])


@pytest.mark.parametrize("name", RUNS)
def test_the_weights_are_those_of_cpu(on_cpu: tuple[Path, Any], on_npu: tuple[Path, Any], name: str) -> None:
    found, wanted = (
        load_file(checkpoint.newest(folder / name / RUNS[name] / "checkpoints").model / "model.safetensors")
        for folder, _ in (on_npu, on_cpu)
    )
    assert found.keys() == wanted.keys()
    for key, weight in wanted.items():
        torch.testing.assert_close(found[key], weight, rtol=0, atol=2e-3, msg=lambda text, key=key: f"{key}: {text}")


def test_a_run_broken_off_and_resumed_is_the_run_that_was_not(on_npu: tuple[Path, Any]) -> None:
    folder, _ = on_npu
    assert metrics(folder / "resumed" / "rl") == metrics(folder / "slates" / "rl")
    resumed, whole = (
        checkpoint.newest(folder / name / "rl" / "checkpoints").path / "trainer.safetensors"
        for name in ("resumed", "slates")
    )
    assert resumed.read_bytes() == whole.read_bytes()


def test_half_precision_and_dropout_train(on_cpu: tuple[Path, Any], on_npu: tuple[Path, Any]) -> None:
    npu, cpu = ([line["sft/loss"] for line in metrics(folder / "half" / "sft")] for folder, _ in (on_npu, on_cpu))
    assert npu == pytest.approx(cpu, rel=0.05)  # other masks, and autocast lowers other ops
    assert npu[-1] < npu[0]


def test_the_run_says_where_it_ran_and_what_it_held(on_npu: tuple[Path, Any]) -> None:
    folder, _ = on_npu
    environment = json.loads((folder / "beam" / "rl" / "environment.json").read_text())
    assert environment["device"].startswith("npu")
    peaks = [line["perf/max_memory_allocated_gb"] for line in metrics(folder / "beam" / "rl", timed=True)]
    assert all(0 < peak < 0.5 for peak in peaks)  # the device's, not the process's


def test_evaluation_and_recommendations_are_those_of_cpu(on_cpu: tuple[Path, Any], on_npu: tuple[Path, Any]) -> None:
    npu, cpu = on_npu[1], on_cpu[1]
    alike(npu["metrics"], cpu["metrics"])
    assert [one["item_id"] for one in npu["recommended"]] == [one["item_id"] for one in cpu["recommended"]]
    scores = ([one["score"] for one in found["recommended"]] for found in (npu, cpu))
    assert next(scores) == pytest.approx(next(scores), abs=2e-3)


def test_the_command_line_recommends_on_the_device_and_logs_its_kernels(npu: FakeNpu, on_npu: tuple[Path, Any]) -> None:
    folder, found = on_npu
    arguments = ("-v", "recommend", "--user", found["history"], "--k", "5", "--run", str(folder / "beam"), "--json")
    done = npu.start(COMMAND, *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == found["recommended"]
    assert "device: npu" in done.stderr
    for op, kernel in {"linear_logp": "chunked", "prefix_attention": "explicit", "pack_active": "reference"}.items():
        assert f"kernel {op} on npu: {kernel}" in done.stderr


def test_the_doctor_finds_the_device(npu: FakeNpu, tmp_path: Path) -> None:
    found = json.loads(npu.run(COMMAND, "doctor", "--json", folder=tmp_path))
    assert found["problems"] == []
    assert found["device"]["chosen"] == "npu"
    assert found["accelerators"]["ascend"].startswith("yes: npu")


def test_every_part_of_rl_takes_the_step_that_it_takes_on_cpu(
    npu: FakeNpu, world: Path, on_cpu: tuple[Path, Any], tmp_path: Path
) -> None:
    model = checkpoint.best(on_cpu[0] / "sft" / "sft").model
    npu.run(MODULE, "fake_npu.parts", str(world), str(model), str(tmp_path), "npu", folder=tmp_path)
    found = json.loads((tmp_path / "parts.json").read_text())
    wanted = parts.run(world, model, tmp_path, "cpu")
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert values["signal/active_rows"] > 0, name
        alike({**found[name], AT_A_BOUND: 0.0}, {**values, AT_A_BOUND: 0.0})


def test_the_ascend_kernels_take_the_step_that_cpu_takes(npu: FakeNpu, world: Path, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    arguments = ("fake_npu.ascend", str(world), str(tmp_path))
    found = json.loads(npu.run(MODULE, *arguments, folder=tmp_path, triton=True, TRITON_INTERPRET="1"))
    assert found["signal/active_rows"] > 0
    alike(found, ascend.step(world, tmp_path, "cpu", {}))


@pytest.fixture(scope="module", params=["torch", "megatron"])
def two_ranks(
    request: pytest.FixtureRequest, npu: FakeNpu, world: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """SFT and RL on two devices, as two copies of a model or as two halves of one, and what their collectives gave."""
    if request.param == "megatron" and find_spec("megatron") is None:
        pytest.skip("megatron-core is not installed")
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_NPU_LIBRARY", str(npu.library))
        done = run_ranks(HERE / "ranks.py", 2, world, folder, request.param, ahead=SITE)
    assert done.returncode == 0, done.stdout
    return folder, json.loads((folder / "ranks.json").read_text())


def test_two_ranks_with_a_device_each_train_as_one_process_on_cpu(
    on_cpu: tuple[Path, Any], two_ranks: tuple[Path, Any]
) -> None:
    folder, said = two_ranks
    for name in ("sft", "slates"):
        same_lines(folder / name / RUNS[name], on_cpu[0] / name / RUNS[name])
    assert said == {
        "device": ["npu:0", "npu:1"],
        "backend": "hccl",
        "sum": [3, 3, 3],
        "broadcast": [2, 2],
        "gathered": [1, 1, 2, 2],
        "scattered": [3],
        "gradient": ["npu", [1.5, 1.5]],
        "host": "No backend type associated with device type cpu",
    }
