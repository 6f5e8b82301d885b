"""The kernels for Ascend in Triton's interpreter, and the gate that lowers and plans them.

The gate itself runs where RECRL_ASCEND_PACKAGES names the folder that holds its packages.
Letters: T tokens, H hidden size, V vocabulary, B groups, G responses.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from recrl.errors import RunError, UserError
from recrl.kernels import aot_ascend
from recrl.kernels.aot_ascend import Lowered, Plan
from recrl.kernels.boundary_select import ascend as boundary
from recrl.kernels.boundary_select import reference as boundary_reference
from recrl.kernels.linear_logp import ascend as logp
from recrl.kernels.linear_logp import reference as logp_reference
from recrl.kernels.linear_logp import triton_host

PACKAGES = os.environ.get("RECRL_ASCEND_PACKAGES")
SIZES = settings(max_examples=8, deadline=None)

# What the tools printed, shortened.
OVERFLOW = """loc("k.mlir":63:13): warning: [cv-pipelining] unsupported regioned op
[NOTE] Ub overflow detected; automatically set enable-code-motion to false and retrying compilation.
[NOTE] Due to Ub overflow, automatically set enable-code-motion to false; compilation still failed.
loc("k.mlir":2:1): error: Failed to run BiShengHIR pipeline

loc("k.mlir":3:3): error: ub overflow, requires 3174400 bits while 1572864 bits available! (possible reason: tiling)
[ERROR] Failed to run BiShengIR pipeline
"""
PLANNED = """
    %0 = hivm.hir.pointer_cast(%c15424_i64) : memref<4x256xf32, #hivm.address_space<ub>>
    %1 = hivm.hir.pointer_cast(%c36352_i64) : memref<4x256xf32, #hivm.address_space<ub>>
    %2 = hivm.hir.pointer_cast(%c0_i64, %c40448_i64) : memref<100xi1, strided<[1]>, #hivm.address_space<ub>>
    %3 = hivm.hir.pointer_cast(%c32768_i64) : memref<4x4x16x16xbf16, #hivm.address_space<cbuf>>
    %4 = hivm.hir.pointer_cast(%c0_i64_7) : memref<4x4x16x16xf32, #hivm.address_space<cc>>
"""
LINALG = """
        scf.for %arg23 = %c0 to %c64 step %c1 {
          memref.copy %9, %8 : memref<1x32xf32, strided<[32, 1], offset: ?>> to memref<1x32xf32, strided<[32, 1]>>
        } {ExtractedLoadOrStore, hivm.parallel_loop}
            scf.yield {DiscreteMemAccess} %inserted : tensor<32x128xf32>
          } {ExtractedLoadOrStore}
        }
"""
REFUSED = 'k.mlir:9:1: error: failed to legalize operation | "tt.atomic_cas"\nk.mlir:9:1: note: see current operation'


def matrices(tokens: int, vocabulary: int, width: int, dtype: torch.dtype, seed: int) -> list[Tensor]:
    """Hidden states and an output matrix with logits of standard deviation 1, and targets."""
    source = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=source).to(dtype).requires_grad_()
    weight = (torch.randn(vocabulary, width, generator=source) * width**-0.5).to(dtype).requires_grad_()
    return [hidden, weight, torch.randint(vocabulary, (tokens,), generator=source)]


def outcome(function: Any, hidden: Tensor, weight: Tensor, target: Tensor) -> list[Tensor]:
    """Log-probabilities, entropies, and the gradients to both matrices of a weighted sum."""
    value, entropy = function(hidden, weight, target)
    assert not entropy.requires_grad
    return [value, entropy, *torch.autograd.grad(value @ torch.linspace(-1, 2, len(value)), (hidden, weight))]


def agree(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    """The error of values is within 1e-5 and that of gradients within a tolerance, of the largest entry."""
    for one, other, allowed in zip(found, wanted, (1e-5, 1e-5, tolerance, tolerance), strict=True):
        scale = max(0.1, float(other.detach().abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one.float(), other.float(), rtol=0, atol=allowed * scale)


@SIZES
@given(st.integers(0, 150), st.integers(1, 400), st.integers(1, 130), st.integers(0, 99))
def test_linear_logp_agrees_with_the_reference(tokens: int, vocabulary: int, width: int, seed: int) -> None:
    arguments = matrices(tokens, vocabulary, width, torch.float32, seed)
    agree(outcome(logp.linear_logp, *arguments), outcome(logp_reference.linear_logp, *arguments), 1e-5)


@SIZES
@given(st.integers(1, 150), st.integers(1, 400), st.integers(1, 130), st.integers(0, 99))
def test_linear_logp_sums_bf16_in_float32(tokens: int, vocabulary: int, width: int, seed: int) -> None:
    hidden, weight, target = matrices(tokens, vocabulary, width, torch.bfloat16, seed)
    exact = [hidden.detach().float().requires_grad_(), weight.detach().float().requires_grad_(), target]
    # dlogits and the gradients are rounded to the 8 bits of bf16.
    agree(
        outcome(logp.linear_logp, hidden, weight, target), outcome(logp_reference.linear_logp, *exact), tolerance=1e-2
    )


@pytest.mark.parametrize("programs", [1, 7], ids=["one program", "seven"])
@pytest.mark.parametrize("workspace", [1, 130 * 300], ids=["a block at a time", "two blocks at a time"])
def test_no_number_of_programs_leaves_work_undone(
    monkeypatch: pytest.MonkeyPatch, programs: int, workspace: int
) -> None:
    monkeypatch.setattr(logp, "PROGRAMS", programs)
    monkeypatch.setattr(triton_host, "WORKSPACE", workspace)
    arguments = matrices(130, 700, 40, torch.float32, 0)
    agree(outcome(logp.linear_logp, *arguments), outcome(logp_reference.linear_logp, *arguments), 1e-5)


def test_a_target_that_int32_does_not_hold_is_outside_of_the_vocabulary() -> None:
    hidden, weight, _ = matrices(3, 50, 8, torch.float32, 0)
    value, entropy = logp.linear_logp(hidden, weight, torch.tensor([-1, 50, 2**32 + 1]))
    assert torch.isneginf(value).all()
    assert torch.isfinite(entropy).all()


@pytest.mark.parametrize("most", [65_535, 2], ids=["one launch", "several"])
@SIZES
@given(st.integers(0, 7), st.integers(1, 40), st.integers(0, 99))
def test_boundary_select_agrees_with_the_reference(most: int, groups: int, size: int, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    # Few distinct values, so that most comparisons are ties.
    keys = [torch.randint(3, (groups, size), generator=source).float() for _ in range(3)]
    valid = torch.rand(groups, size, generator=source) < 0.7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundary, "MOST_GROUPS", most)
        found = boundary.boundary_select(*keys, valid)
    for one, other in zip(found, boundary_reference.boundary_select(*keys, valid), strict=True):
        assert torch.equal(one, other)


def test_boundary_select_refuses_float64() -> None:
    keys = [torch.zeros(1, 2, dtype=dtype) for dtype in (torch.float32, torch.float64, torch.float32)]
    with pytest.raises(UserError, match="reference"):
        boundary.boundary_select(*keys, torch.ones(1, 2, dtype=torch.bool))
    assert not any("*fp64" in launch.signature.values() for launch in boundary.LAUNCHES)


def test_used_bytes_end_with_the_last_buffer_of_each_memory() -> None:
    # 100 bits take 13 bytes; L1: 32,768 + 4 * 4 * 16 * 16 * 2; L0C: 4 * 4 * 16 * 16 * 4.
    assert aot_ascend.used_bytes(PLANNED) == {"ub": 40_448 + 13, "cbuf": 40_960, "cc": 16_384}


def test_a_plan_is_read_from_what_the_planner_left() -> None:
    used = {"ub": 40_461, "cbuf": 40_960, "cc": 16_384}
    assert aot_ascend.read_plan(0, "", PLANNED) == Plan(used)
    assert aot_ascend.read_plan(0, OVERFLOW.splitlines()[1], PLANNED) == Plan(used, retried=True)
    assert aot_ascend.read_plan(1, OVERFLOW, "") == Plan({}, "unified buffer overflows: 396800 of 196608 bytes")
    assert aot_ascend.read_plan(1, REFUSED, "") == Plan({}, 'failed to legalize operation / "tt.atomic_cas"')


def test_success_without_a_module_is_not_believed() -> None:
    with pytest.raises(RunError, match="handed nothing"):
        aot_ascend.read_plan(0, "", "")


def test_reads_that_became_loops_are_counted() -> None:
    assert Lowered("one", "ascend", "", LINALG, "").loops == 2


def test_the_reason_is_that_of_the_innermost_error() -> None:
    inner, outer = ValueError("no such precision"), RuntimeError("at 31:17")
    outer.__cause__ = inner
    assert aot_ascend.root(outer) is inner
    assert aot_ascend.last_words("at 23:22:\n  x = load()\nfp64 is unsupported\n") == "fp64 is unsupported"
    assert aot_ascend.last_words("") == "it gave no reason"


def test_lines_say_lowers_and_plans_and_why_not() -> None:
    lowered, refused = Lowered("one", "ascend", "lanes 2", LINALG, ""), Lowered("two", "triton_gpu", "", "", "fp64")
    assert aot_ascend.line(lowered, None) == "| one | lanes 2 | ascend | yes | 2 | not tried |  |  |  |  |"
    assert aot_ascend.line(refused, None) == "| two |  | triton_gpu | no |  |  |  |  |  | fp64 |"
    assert aot_ascend.line(lowered, Plan({"ub": 9})) == "| one | lanes 2 | ascend | yes | 2 | yes | 9 | 0 | 0 |  |"
    assert aot_ascend.line(lowered, Plan({}, "full")).endswith("| yes | 2 | no |  |  |  | full |")
    assert "| yes, at a second try |" in aot_ascend.line(lowered, Plan({}, retried=True))


def test_only_kernels_that_ascend_picks_are_objected_to() -> None:
    rows = [
        (Lowered(name, file, "", "", reason), found)
        for name, file, reason, found in (
            ("one", "ascend", "", Plan({})),
            ("two", "ascend", "fp64", None),
            ("three", "ascend", "", Plan({}, "full")),
            ("four", "triton_gpu", "fp64", None),
            ("five", "triton_gpu", "", Plan({}, "full")),
        )
    ]
    assert aot_ascend.objections(rows) == ["two does not lower: fp64", "three does not plan: full"]


def test_a_kernel_that_must_not_be_shipped_fails_the_gate_and_leaves_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "AOT_ASCEND.md"
    table.write_text("as it was")
    (tmp_path / "triton_ascend-1.dist-info").mkdir()
    (tmp_path / "triton_ascend-1.dist-info" / "METADATA").write_text("Name: triton-ascend\nVersion: 1\n")
    rows = [Lowered("one", "ascend", "lanes 2", LINALG, ""), Lowered("two", "ascend", "", "", "fp64")]
    monkeypatch.setattr(aot_ascend, "TABLE", table)
    monkeypatch.setattr(aot_ascend, "lowered_by", lambda _: rows)
    assert aot_ascend.main(["--packages", str(tmp_path)]) == 1
    assert "two does not lower: fp64" in capsys.readouterr().err
    assert table.read_text() == "as it was"
    rows.pop()
    assert aot_ascend.main(["--packages", str(tmp_path)]) == 0
    assert "with triton-ascend 1,\n" in table.read_text()
    assert "| one | lanes 2 | ascend | yes | 2 | not tried |" in table.read_text()


def test_a_folder_without_the_packages_is_the_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert aot_ascend.main(["--packages", str(tmp_path), "--check"]) == 2
    assert "does not hold triton-ascend, ascendnpu-ir" in capsys.readouterr().err


def planner(folder: Path, script: str) -> Path:
    """A program in the planner's place."""
    program = folder / "bishengir-compile"
    program.write_text(f"#!/bin/sh\n{script}")
    program.chmod(0o755)
    return program


def test_what_reaches_the_last_stage_is_the_plan(tmp_path: Path) -> None:
    (tmp_path / "module.mlir").write_text(PLANNED)
    compiler = planner(
        tmp_path, f'hivmc --version >&2 && hivmc --flag {tmp_path}/module.mlir -o "$PWD/made" && ls made.o'
    )
    assert aot_ascend.plan("module {}", compiler).used == aot_ascend.used_bytes(PLANNED)


def test_the_planner_gets_the_module_without_its_mix_mode(tmp_path: Path) -> None:
    compiler = planner(tmp_path, 'echo "error: $(cat "$1")"; exit 1')
    found = aot_ascend.plan('module {a = 1, mix_mode = "aiv", b = 2}', compiler)
    assert found == Plan({}, "module {a = 1, b = 2}")


@pytest.mark.skipif(PACKAGES is None, reason="RECRL_ASCEND_PACKAGES names no folder with triton-ascend")
@pytest.mark.timeout(1800)
def test_all_kernels_lower_and_plan_as_the_table_says(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recrl.kernels.aot_ascend", "--packages", str(PACKAGES), "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
