from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from recrl.commands.doctor import doctor
from recrl.device import copy_speed, matmul_speed
from recrl.hardware import doctor as examined
from recrl.hardware.doctor import examine, kernel_choice
from recrl.kernels import native
from recrl.kernels.registry import KERNELS, pick

FEW = {"torch": "torch", "psutil": "psutil"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Few packages, a small copy and no matrix products."""
    monkeypatch.setattr(examined, "CORE", FEW)
    monkeypatch.setattr(examined, "measure", lambda _: {"copy_gb_per_s": 1.0})
    return monkeypatch


def test_this_machine_can_run(tmp_path: Path):
    found = examine(tmp_path)
    assert found.problems == []
    assert found.facts["packages"]["torch"] == torch.__version__.split("+")[0] or "+" in torch.__version__
    assert set(found.facts["links"].values()) == {"ok"}
    assert found.facts["disk"]["folder"] == str(tmp_path)
    assert found.facts["measured"]["matmul_float32_gflops"] > 0
    assert found.facts["measured"]["matmul_bfloat16_gflops"] > 0
    assert found.facts["measured"]["copy_gb_per_s"] > 0


@pytest.mark.parametrize(("factor", "taken"), [(0.25, "bfloat16"), (9.4, "float32")])
def test_what_auto_takes_stands_beside_the_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, taken: str
):
    monkeypatch.setattr(matmul_speed, "bfloat16_time", lambda _: factor)
    monkeypatch.setattr(matmul_speed, "product_flops", lambda _, dtype: {"float32": 4e10, "bfloat16": 5.06e9}[dtype])
    monkeypatch.setattr(examined, "CORE", FEW)
    monkeypatch.setattr(copy_speed, "copy_speed", lambda _: 1e9)
    monkeypatch.chdir(tmp_path)
    lines = [" ".join(line.split()) for line in CliRunner().invoke(doctor, []).output.splitlines()]
    assert "matmul float32 (GFLOP/s) 40.0" in lines
    assert "matmul bfloat16 (GFLOP/s) 5.1" in lines
    assert f"auto dtype {taken}, since bfloat16 products take {factor} times as long as float32's here" in lines


def test_a_copy_counts_what_is_read_and_what_is_written(monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(100))
    monkeypatch.setattr(copy_speed.time, "perf_counter", lambda: next(clock))  # every copy takes one second
    assert copy_speed.copy_speed(torch.device("cpu"), 1000) == 2000


@pytest.mark.usefixtures("quick")
def test_the_command_prints_json_and_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(doctor, ["--json"])
    assert shown.exit_code == 0
    found = json.loads(shown.output)
    assert found["ok"]
    assert found["system"]["python"] == sys.version.split()[0]
    assert {"cuda", "ascend", "megatron"} == set(found["accelerators"])
    assert found["device"]["profile"] == "cpu"
    assert found["kernels"]["linear_logp"]["others"]["triton_gpu"] == "runs on cuda, not on cpu"


def test_a_package_that_is_not_there_is_a_problem(quick: pytest.MonkeyPatch):
    quick.setattr(examined, "CORE", FEW | {"no-such-package": "nothing"})
    shown = CliRunner().invoke(doctor, [])
    assert shown.exit_code == 1
    assert "no-such-package: not installed" in shown.output
    assert "No run can work here" in shown.output


def test_a_package_that_does_not_load_is_a_problem_and_what_follows_is_left_out(quick: pytest.MonkeyPatch):
    quick.setitem(sys.modules, "broken_torch", None)  # import raises
    quick.setattr(examined, "CORE", {"torch": "broken_torch", "psutil": "psutil"})
    found = examine(Path.cwd())
    assert [line.split(":")[0] for line in found.problems] == ["torch"]
    assert "does not load" in found.facts["packages"]["torch"]
    assert "device" not in found.facts


def test_a_link_that_did_not_come_along_is_a_problem(quick: pytest.MonkeyPatch):
    quick.setattr(examined, "LINKED", {"recrl.hw_profiles": "recrl.hw_profiles.nowhere"})
    found = examine(Path.cwd())
    assert found.facts["links"]["recrl.hw_profiles"].startswith("missing")
    assert len(found.problems) == 1


def test_a_device_that_does_not_compute_is_a_problem(quick: pytest.MonkeyPatch):
    def fails(_: torch.device) -> dict[str, float]:
        raise RuntimeError("no memory left\nmore words")

    quick.setattr(examined, "measure", fails)
    assert examine(Path.cwd()).problems == ["device cpu: it does not compute: no memory left"]


def test_every_op_has_its_choice_and_a_reason_for_every_other_implementation():
    for op, rows in KERNELS.items():
        for device in ("cpu", "cuda", "npu"):
            found = kernel_choice(op, device)
            assert {found["chosen"], *found["others"]} == {row.name for row in rows}
            assert all(found["others"].values())


def test_the_choice_is_the_one_that_a_run_makes():
    for op in KERNELS:
        assert pick(op, "cpu").__name__ == f"recrl.kernels.{op}.{kernel_choice(op, 'cpu')['chosen']}"


def test_a_kernel_behind_the_chosen_one_is_told_from_one_that_can_t_run():
    others = kernel_choice("gmean_ratio", "cpu")["others"]
    assert others == {"triton_gpu": "runs on cuda, not on cpu", "ascend": "runs on npu, not on cpu"}
    behind = kernel_choice("swiglu", "cuda")
    assert (behind["chosen"], behind["others"]["native"]) == ("reference", "runs on cpu, not on cuda")


@pytest.mark.usefixtures("quick")
def test_without_a_compiler_the_kernels_in_c_say_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "obstacle", lambda: "native needs a C compiler: no C compiler (cc, gcc, clang)")
    found = examine(Path.cwd())
    assert found.facts["native"]["compiled"].startswith("no: native needs a C compiler")
    assert found.facts["kernels"]["swiglu"]["others"]["native"] == "needs a C compiler: no C compiler (cc, gcc, clang)"
    assert found.problems == []


@pytest.fixture
def installed(quick: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets versions of distributions; None: not installed."""
    real = examined._version

    def set_versions(**versions: str | None) -> None:
        given = {name.replace("_", "-"): version for name, version in versions.items()}
        quick.setattr(examined, "_version", lambda name: given[name] if name in given else real(name))

    return set_versions


def test_what_is_missing_comes_with_the_command_that_installs_it(installed: Callable[..., None]):
    installed(megatron_core=None, torch_npu=None, torch="2.13.0+cpu", triton=None)
    found = examine(Path.cwd()).facts
    assert found["accelerators"]["megatron"].endswith("pip install 'recrl[megatron]'")
    assert found["optional"]["triton"].endswith("pip install 'recrl[triton]'")
    if not hasattr(torch, "npu"):
        assert found["accelerators"]["ascend"].endswith("install CANN, then pip install torch-npu==2.13.0")


def test_torch_npu_of_another_release_than_torch_is_told(installed: Callable[..., None]):
    installed(torch="2.13.0+cpu", torch_npu="2.12.0.post1")
    assert examined._ascend().endswith("pip install torch-npu==2.13.0")
    installed(torch="2.13.0+cpu", torch_npu="2.13.0.post2")
    assert "does not go with" not in examined._ascend()


def test_megatron_on_ascend_wants_mindspeed(installed: Callable[..., None]):
    installed(megatron_core="0.16.1")
    assert examined._megatron("cpu") == "yes: megatron-core 0.16.1"
    if find_spec("mindspeed") is None:
        assert "MindSpeed" in examined._megatron("npu")


def test_collectives_that_torch_lacks_are_told(quick: pytest.MonkeyPatch):
    quick.setattr(torch.distributed, "is_backend_available", lambda _: False)
    found = examine(Path.cwd())
    assert "built without gloo" in found.facts["device"]["collectives"]
    assert found.problems == [], "a run of one rank needs none"


@pytest.mark.usefixtures("quick")
def test_the_text_groups_what_a_reason_keeps_out_and_names_units():
    shown = CliRunner().invoke(doctor, []).output
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "not triton_gpu runs on cuda, not on cpu" in lines
    assert "copy (GB/s) 1.0" in lines
    assert "writable yes" in lines
    assert shown.endswith("A run can work here.\n")
