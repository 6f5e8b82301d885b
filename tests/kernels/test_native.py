"""The native library: building, the cache, the threads, and machines without a compiler."""

from __future__ import annotations

import ctypes
import fnmatch
import logging
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recrl.errors import UserError
from recrl.kernels import native
from recrl.kernels.registry import KERNELS, pick

ROOT = Path(__file__).resolve().parents[2]
COMPILER = native.obstacle() is None
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C compiler")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache and a module that has not yet looked for a compiler."""
    monkeypatch.setenv("RECRL_CACHE", str(tmp_path / "cache"))
    forgotten = native._outcome.cache_clear, pick.cache_clear  # no other test may meet what these chose
    for forget in forgotten:
        forget()
    yield tmp_path / "cache" / "native"
    for forget in forgotten:
        forget()


def program(folder: Path, text: str) -> str:
    """An executable shell script in a folder."""
    file = folder / "compiler"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


@needs_compiler
def test_processes_that_build_at_once_leave_one_library_and_a_later_one_takes_it(fresh: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: native.build(), range(2))
    assert first == second
    assert list(fresh.iterdir()) == [first]
    assert hasattr(ctypes.CDLL(str(first)), "rms_norm_forward")
    written = first.stat().st_mtime_ns
    assert native.build() == first
    assert first.stat().st_mtime_ns == written


@needs_compiler
def test_other_sources_flags_or_compilers_make_another_library(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.setattr(native, "SOURCES", ("one.c",))
    monkeypatch.setattr(native, "HEADERS", ())
    (tmp_path / "one.c").write_text("int one(void) { return 1; }\n")
    made = [native.build()]
    (tmp_path / "one.c").write_text("int one(void) { return 2; }\n")
    made.append(native.build())
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-DOTHER"))
    made.append(native.build())
    real = native._compiler()[0]
    monkeypatch.setenv("CC", f"{real} -DNEWER")
    made.append(native.build())
    assert sorted(fresh.iterdir()) == sorted(set(made))
    assert len(set(made)) == 4
    assert [ctypes.CDLL(str(file)).one() for file in made] == [1, 2, 2, 2]


def test_the_cache_lies_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RECRL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert native.cache_folder() == tmp_path / ".cache" / "recrl"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert native.cache_folder() == tmp_path / "xdg" / "recrl"
    monkeypatch.setenv("RECRL_CACHE", str(tmp_path / "own"))
    assert native.cache_folder() == tmp_path / "own"


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("op", ["rms_norm", "swiglu", "norm_rotary"])
def test_without_a_compiler_the_reference_is_taken_and_said(
    op: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(native, "COMPILERS", ("no-such-compiler",))
    with caplog.at_level(logging.INFO):
        assert pick(op, "cpu").__name__.endswith(f"{op}.reference")
    assert "no native kernels: no C compiler (no-such-compiler)" in caplog.text
    with pytest.raises(UserError, match="native needs a C compiler"):
        pick(op, "cpu", "native")


@pytest.mark.usefixtures("fresh")
def test_a_compiler_that_the_user_names_is_not_swapped_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O1")
    assert "CC=no-such-compiler is not to be found" in str(native.obstacle())


def test_a_compiler_that_refuses_the_sources_is_quoted_and_asked_once(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # It answers the question for its macros and fails at the work.
    script = 'case "$*" in *-dM*) echo "#define X";; *) echo "one.c:3: error: no such thing" >&2; exit 4;; esac'
    monkeypatch.setenv("CC", program(tmp_path, script))
    for _ in range(2):
        assert "compiler failed (4): one.c:3: error: no such thing" in str(native.obstacle())
    assert caplog.text.count("no native kernels") == 1
    assert list(fresh.iterdir()) == []


def test_a_library_that_does_not_load_is_an_obstacle(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = 'while [ "$1" != -o ]; do [ $# -gt 0 ] || exit 0; shift; done; echo text > "$2"'
    monkeypatch.setenv("CC", program(tmp_path, script))
    assert "native does not load" in str(native.obstacle())
    assert len(list(fresh.iterdir())) == 1


@needs_compiler
def test_a_cache_that_cannot_be_written_is_named(
    fresh: Path,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RECRL_CACHE", str(tmp_path / "file"))
    assert "set RECRL_CACHE" in str(native.obstacle())


def test_native_kernels_are_for_the_cpu_alone() -> None:
    native_row = next(row for row in KERNELS["rms_norm"] if row.name == "native")
    assert native_row.obstacle("cuda") == "native runs on cpu, not on cuda"


def test_the_wheel_takes_all_sources_along() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    found = {str(path.relative_to(ROOT / "kernels")) for path in (ROOT / "kernels").rglob("*.[ch]")}
    assert found == {*native.SOURCES, *native.HEADERS}
    assert all(any(fnmatch.fnmatch(Path(name).name, pattern) for pattern in patterns) for name in found)


THREADS = """
import os, torch
from recrl.kernels.rms_norm.native import rms_norm
from recrl.kernels.swiglu.native import swiglu

def results():
    torch.manual_seed(0)
    x, weight = torch.randn(600, 257, requires_grad=True), torch.randn(257, requires_grad=True)
    out = swiglu(rms_norm(x, weight, 1e-6), x)
    out.square().sum().backward()
    return out, x.grad, weight.grad

torch.set_num_threads(3)
gate = torch.empty(100_000)
before = len(os.listdir("/proc/self/task"))
swiglu(gate, gate)
print("started:", len(os.listdir("/proc/self/task")) - before)
with_three = results()  # torch's ops and ours by turns
print("started in all:", len(os.listdir("/proc/self/task")) - before)
torch.set_num_threads(1)
print("equal:", all(torch.equal(one, three) for one, three in zip(results(), with_three)))
"""


@needs_compiler
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_loops_run_on_the_threads_of_torch_and_give_the_same_on_any_number(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    done = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.stdout.splitlines() == ["started: 2", "started in all: 2", "equal: True"], done.stderr
