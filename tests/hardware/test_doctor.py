from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from recrl.commands.doctor import doctor
from recrl.hardware import doctor as examined
from recrl.hardware.doctor import copy_speed, examine

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
    assert found.facts["measured"]["copy_gb_per_s"] > 0


def test_a_copy_counts_what_is_read_and_what_is_written(monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(100))
    monkeypatch.setattr(examined.time, "perf_counter", lambda: next(clock))  # every copy takes one second
    assert copy_speed(torch.device("cpu"), 1000) == 2000


@pytest.mark.usefixtures("quick")
def test_the_command_prints_json_and_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(doctor, ["--json"])
    assert shown.exit_code == 0
    found = json.loads(shown.output)
    assert found["ok"]
    assert found["system"]["python"] == sys.version.split()[0]
    assert {"cuda", "ascend"} == set(found["accelerators"])
    assert {"triton", "megatron-core"} <= set(found["optional"])


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
