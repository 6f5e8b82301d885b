"""The ahead-of-time gate for Ascend: ``python -m recrl.kernels.aot_ascend --packages DIR`` needs no NPU and no CANN.

Each row of the launch tables (of ``ascend.py`` where an op has one, else of ``triton_gpu.py``) is lowered to linalg by
triton-ascend. Then ascendnpu-ir, where DIR holds it, plans the memories of a core. The last stage, which would make a
binary, is closed; a stand-in keeps what it is handed. ``AOT_ASCEND.md`` beside this file takes what came out. The gate
fails where a kernel of an ``ascend.py`` does not lower or does not plan. Nothing is run.

triton-ascend is a folder ``triton`` itself, so it must not share an environment with Triton. It is read from DIR, in a
process of its own: ``pip install --target DIR triton-ascend==3.2.0 pybind11 ascendnpu-ir==1.2.0``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from math import prod
from pathlib import Path

from recrl.errors import RunError, UserError
from recrl.kernels.aot_table import settle
from recrl.kernels.launches import Launch
from recrl.kernels.registry import KERNELS, TRITON, load

TABLE = Path(__file__).with_name("AOT_ASCEND.md")
TARGET = "Ascend910B1"
MEMORIES = {"ub": "unified buffer", "cbuf": "L1", "cc": "L0C"}
"""The planner's names of memories: of the vector units, of the matrix unit, and of its results."""
LONGEST_S = 600
"""A planner that takes longer hangs; it needs some seconds for a kernel."""
_SWITCHES = (
    "enable-auto-multi-buffer",
    "enable-auto-bind-sub-block",
    "enable-hfusion-compile",
    "enable-hivm-compile",
    "enable-triton-kernel-compile",
)
STAND_IN = """#!/bin/sh
# In place of the closed last stage: keeps the module that it is handed and makes an empty binary.
if [ "$1" = --version ]; then echo "hivmc 1.2.0"; exit; fi
for argument in "$@"; do
  if [ -f "$argument" ]; then cp "$argument" "$PLANNED"; break; fi
done
while [ $# -gt 0 ]; do
  if [ "$1" = -o ]; then : > "$2"; : > "$2.o"; fi
  shift
done
"""


@dataclass(frozen=True)
class Lowered:
    """One kernel after triton-ascend."""

    name: str
    file: str
    """``ascend`` or ``triton_gpu``."""
    tile: str
    linalg: str
    """The module; empty where it does not lower."""
    reason: str
    """Why it does not lower."""

    @property
    def loops(self) -> int:
        """Reads and writes that became a loop over rows or elements, for want of a regular pattern."""
        return len(re.findall(r"^ *} \{ExtractedLoadOrStore\b", self.linalg, flags=re.MULTILINE))


@dataclass(frozen=True)
class Plan:
    """What the memory planner says of one kernel."""

    used: dict[str, int]
    """Bytes of each of ``MEMORIES`` that the plan uses."""
    reason: str = ""
    """Why there is no plan."""
    retried: bool = False
    """Whether it was found at a second try, with less overlap of copying and computing."""


def launches() -> Iterator[tuple[str, Launch]]:
    """File and launch of all kernels that are or could be used on Ascend, in the registry's order."""
    for op, rows in KERNELS.items():
        names = {row.name for row in rows}
        file = "ascend" if "ascend" in names else TRITON.name
        if file in names:
            yield from ((file, launch) for launch in load(op, file).LAUNCHES)


def lower(launch: Launch) -> str:
    """The linalg module of a launch, by the ``triton`` of triton-ascend."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend

    target = GPUTarget("npu", TARGET, 0)
    backend = make_backend(target)
    options = backend.parse_options({"num_warps": launch.num_warps, "num_stages": launch.num_stages})
    source = ASTSource(launch.function, launch.signature, constants=launch.constants)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    stages: dict[str, object] = {}
    backend.add_stages(stages, options)
    metadata = {"target": target, "hash": "", **vars(options)}
    module = source.make_ir(options, backend.get_codegen_implementation(), backend.get_module_map(), context)
    for stage in ("ttir", "ttadapter"):
        module = stages[stage](module, metadata)  # type: ignore[operator]
    return str(module)


def lower_all(result: str) -> None:
    """Lower all launches and write them to a JSON file; the work of the process that imports triton-ascend."""
    found = []
    for file, launch in launches():
        linalg = reason = ""
        try:
            linalg = lower(launch)
        except subprocess.CalledProcessError as error:  # from triton-adapter-opt
            reason = last_words(error.stderr.decode())
        except Exception as error:  # whatever the front end raises is the answer that is asked for
            reason = last_words(str(root(error)))
        found.append(asdict(Lowered(launch.name, file, launch.tile, linalg, reason)))
    Path(result).write_text(json.dumps(found))


def root(error: BaseException) -> BaseException:
    """The first of a chain of errors: Triton wraps one at every call in a kernel."""
    return root(error.__cause__) if error.__cause__ else error


def last_words(text: str) -> str:
    """The line that says what went wrong, without the place, in a cell of a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    line = errors[0].partition("error:")[2] if errors else (lines or ["it gave no reason"])[-1]
    return line.strip().replace("|", "/")[:160]


def lowered_by(packages: Path) -> list[Lowered]:
    """Lower all launches with the triton-ascend of a folder, in a process of its own.

    Raises:
        RunError: that process failed; a kernel that does not lower is no failure of it.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(packages), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    program = "import sys; from recrl.kernels import aot_ascend; aot_ascend.lower_all(sys.argv[1])"
    with tempfile.TemporaryDirectory() as folder:  # also where it works, so that no folder of ours hides a package
        command = [sys.executable, "-c", program, "lowered.json"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError("triton-ascend could not be used", why=done.stderr.strip())
        return [Lowered(**row) for row in json.loads(Path(folder, "lowered.json").read_text())]


def used_bytes(module: str) -> dict[str, int]:
    """The end of the last buffer in each memory of a planned module."""
    used: dict[str, int] = {}
    for places, shape, bits, memory in re.findall(_BUFFER, module):
        size = -(-prod(int(length) for length in shape.split("x")[:-1]) * int(bits) // 8)
        for place in re.findall(r"%c(\d+)_i64", places):  # MLIR names constants by their value
            used[memory] = max(used.get(memory, 0), int(place) + size)
    return used


_BUFFER = (
    r"pointer_cast\(([^)]*)\).*?"
    r": memref<((?:\d+x)*)[a-z]+(\d+)(?:, strided<[^>]*>)?, #hivm\.address_space<(\w+)>>"
)


def read_plan(code: int, log: str, module: str) -> Plan:
    """What the planner's exit code, its log and the module that reached the last stage come to.

    Raises:
        RunError: it claims success, but nothing reached the last stage.
    """
    if code:
        overflow = re.search(r"(\w+) overflow, requires (\d+) bits while (\d+) bits available", log)
        if overflow is None:
            return Plan({}, last_words(log))
        memory, wanted, there = overflow[1], int(overflow[2]) // 8, int(overflow[3]) // 8
        return Plan({}, f"{MEMORIES.get(memory, memory)} overflows: {wanted} of {there} bytes")
    if not module:
        raise RunError("the planner handed nothing to the last stage", why=log.strip())
    return Plan(used_bytes(module), retried="retrying compilation" in log)


def plan(linalg: str, compiler: Path) -> Plan:
    """Plan one module with ``bishengir-compile``, given the options that triton-ascend gives it for this target."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stand_in, source, planned = folder / "hivmc", folder / "kernel.mlir", folder / "planned.mlir"
        stand_in.write_text(STAND_IN)
        stand_in.chmod(0o755)
        source.write_text(re.sub(r', mix_mode\s*=\s*"[^"]*"', "", linalg))  # as triton-ascend does
        environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PLANNED": str(planned)}
        options = [f"--target={TARGET}", *(f"--{switch}=true" for switch in _SWITCHES)]
        command = [str(compiler), str(source), *options, "-o", str(folder / "kernel")]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_S
            )
        except subprocess.TimeoutExpired:
            return Plan({}, f"the planner had not finished after {LONGEST_S} s")
        return read_plan(done.returncode, done.stdout + done.stderr, planned.read_text() if planned.exists() else "")


def line(row: Lowered, found: Plan | None) -> str:
    """A line of the table; no plan where the planner is absent or there is nothing to plan."""
    cells = [row.name, row.tile, row.file, "no" if row.reason else "yes", "" if row.reason else str(row.loops)]
    reason = row.reason
    if found is None:
        cells += ["", "", "", ""] if row.reason else ["not tried", "", "", ""]
    else:
        cells.append("no" if found.reason else "yes, at a second try" if found.retried else "yes")
        cells += ["" if found.reason else str(found.used.get(memory, 0)) for memory in MEMORIES]
        reason = found.reason
    return f"| {' | '.join(cells)} | {reason} |"


def objections(rows: Sequence[tuple[Lowered, Plan | None]]) -> list[str]:
    """Why a kernel of an ``ascend.py`` must not be shipped; those of ``triton_gpu.py`` are not picked on Ascend."""
    ours = [(row, found) for row, found in rows if row.file == "ascend"]
    against = [f"{row.name} does not lower: {row.reason}" for row, _ in ours if row.reason]
    return against + [f"{row.name} does not plan: {found.reason}" for row, found in ours if found and found.reason]


_HEAD = """# Kernels lowered and planned for Ascend, ahead of time

Written by `python -m recrl.kernels.aot_ascend` with {versions},
for {target}: no NPU took part and no binary was made.
*Lowers*: triton-ascend makes linalg of it. *Loops*: reads and writes that became a loop over rows or elements there.
*Plans*: ascendnpu-ir finds room for its buffers; of a core's 196,608 bytes of unified buffer (UB), 524,288 of L1 and
131,072 of L0C, these are used. Kernels of `triton_gpu` are tried as they are; on Ascend those of `ascend` are picked.

| kernel | tile | file | lowers | loops | plans | UB | L1 | L0C | why not |
|---|---|---|---|---|---|---|---|---|---|
"""


def gate(packages: Path, *, planner_needed: bool) -> str:
    """Lower and plan everything and return the text of the table.

    Raises:
        UserError: the folder lacks a package.
        RunError: a kernel of an ``ascend.py`` was refused, or a tool failed in another way.
    """
    compiler = packages / "ascendnpuir" / "bin" / "bishengir-compile"
    versions = {one.name: one.version for one in distributions(path=[str(packages)])}
    wanted = ["triton-ascend", *(["ascendnpu-ir"] if planner_needed else [])]
    missing = [name for name in wanted if name not in versions]
    if missing:
        raise UserError(
            f"{packages} does not hold {', '.join(missing)}",
            fix=f"pip install --target {packages} triton-ascend==3.2.0 pybind11 ascendnpu-ir==1.2.0",
        )
    planner = compiler.exists()
    rows = [(row, plan(row.linalg, compiler) if planner and row.linalg else None) for row in lowered_by(packages)]
    against = objections(rows)
    if against:
        raise RunError("\n".join(against), fix="smaller tiles in the kernel's launch table")
    tools = " and ".join(f"{name} {versions[name]}" for name in ("triton-ascend", "ascendnpu-ir") if name in versions)
    return _HEAD.format(versions=tools, target=TARGET) + "".join(f"{line(*row)}\n" for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where a kernel must not be shipped or the table is out of date."""
    command = "python -m recrl.kernels.aot_ascend"
    parser = argparse.ArgumentParser(prog=command, description="Lower and plan all Triton kernels for Ascend.")
    parser.add_argument("--packages", type=Path, required=True, help="folder with triton-ascend and ascendnpu-ir")
    parser.add_argument("--check", action="store_true", help=f"compare with {TABLE.name} in place of writing it")
    given = parser.parse_args(arguments)
    return settle(
        TABLE,
        lambda: gate(given.packages.resolve(), planner_needed=given.check),
        check=given.check,
        command=f"{command} --packages DIR",
    )


if __name__ == "__main__":
    sys.exit(main())
