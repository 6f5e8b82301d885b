"""The ahead-of-time gate (`make aot` runs it over all kernels). What compiles does so in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from recrl.errors import RunError
from recrl.kernels import aot
from recrl.kernels.aot import Figures

CLEAN_LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_forward' for 'sm_80'
ptxas info    : Function properties for _forward
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 176 registers, used 1 barriers
ptxas info    : Compile time = 215.321 ms
"""
SPILLING_LOG = CLEAN_LOG.replace(
    "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads",
    "384 bytes stack frame, 972 bytes spill stores, 860 bytes spill loads",
).replace("176", "255")

REFUSED = """
import sys
from dataclasses import replace
import triton
from recrl.errors import RunError
from recrl.kernels.aot import TARGETS, gate, is_specialised
from recrl.kernels.registry import load
del TARGETS[90]  # one target takes half the time
launch = next(row for row in load("linear_logp", "triton_gpu").LAUNCHES if row.name == "legal_logp backward bf16")
assert not is_specialised(launch)
assert is_specialised(replace(launch, function=triton.jit(launch.function.fn)))
for changed in (
    replace(launch, constants={"block_t": 16, "block_c": 128}, num_warps=1),
    replace(launch, constants={"block_t": 16, "block_c": 50}),
):
    try:
        gate([changed])
    except RunError as error:
        print(error)
    else:
        sys.exit("the gate let it pass")
"""


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_a_kernel_that_spills_and_one_that_does_not_compile_are_refused(tmp_path: Path) -> None:
    done = run("-c", REFUSED, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "legal_logp backward bf16 spills " in done.stdout
    assert "kernel legal_logp backward bf16 does not compile for sm_80" in done.stdout


def test_the_figures_come_from_the_log_of_ptxas() -> None:
    assert aot.ptxas_figures(CLEAN_LOG, 1024) == Figures(176, 0, 1024)
    assert aot.ptxas_figures(SPILLING_LOG, 1024) == Figures(255, 972, 1024)


@pytest.mark.parametrize("log", ["", CLEAN_LOG * 2], ids=["nothing", "two kernels"])
def test_a_log_of_not_one_kernel_is_an_error(log: str) -> None:
    with pytest.raises(RunError, match="can't be read"):
        aot.ptxas_figures(log, 0)


def test_spills_and_too_much_shared_memory_are_objected_to() -> None:
    assert aot.objections("one", 80, Figures(255, 0, 166_912)) == []
    assert aot.objections("one", 90, Figures(255, 12, 0)) == ["one spills 12 bytes a thread on sm_90"]
    assert aot.objections("one", 80, Figures(9, 0, 166_913)) == [
        "one wants 166913 bytes of 166912 shared ones on sm_80"
    ]


def test_the_gate_does_not_run_in_the_interpreter(capsys: pytest.CaptureFixture[str]) -> None:
    assert aot.main(["--check"]) == 2
    assert "TRITON_INTERPRET is set" in capsys.readouterr().err
