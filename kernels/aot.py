"""The ahead-of-time gate: ``python -m recrl.kernels.aot`` compiles the Triton kernels of the registry without a device.

Each row of the launch tables goes through Triton and the ptxas of its wheel for the GPUs in ``TARGETS``, and ``AOT.md``
beside this file takes what came out: registers, spilled bytes and shared memory. The gate fails where a kernel does not
compile, spills or does not fit. With ``--check`` it compares with that file in place of writing it. Nothing is run, so
nothing is proved here about values: the tests do that in Triton's interpreter, in other processes than this.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recrl.errors import RunError, UserError
from recrl.kernels.aot_table import settle
from recrl.kernels.launches import INTERPRETED, Launch
from recrl.kernels.registry import KERNELS, TRITON, load

TABLE = Path(__file__).with_name("AOT.md")
TARGETS = {80: 166_912, 90: 232_448}
"""Compute capabilities, and the most shared memory in bytes that a block can have (CUDA programming guide, table of
technical specifications per compute capability)."""


@dataclass(frozen=True)
class Figures:
    """What ptxas says of one kernel."""

    registers: int
    """Per thread, of 255."""
    spilled_bytes: int
    """Per thread: what went to local memory for want of registers."""
    shared_bytes: int
    """Per block."""


def ptxas_figures(log: str, shared_bytes: int) -> Figures:
    """Read the log of ``ptxas -v`` on one kernel; the shared memory, given at launch, is not in it.

    Raises:
        RunError: the log does not hold the figures of exactly one kernel.
    """
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    registers = re.findall(r"Used (\d+) registers", log)
    if len(spills) != 1 or len(registers) != 1:
        raise RunError("the log of ptxas can't be read", why=f"{log.strip() or 'it is empty'}")
    return Figures(int(registers[0]), max(map(int, spills[0])), shared_bytes)


def compile_launch(launch: Launch, capability: int, *, aligned: bool) -> Figures:
    """Compile for one target. ``aligned`` says that all sizes are divisible by 16, which Triton notices at a launch.

    Raises:
        RunError: it does not compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.function.arg_names
    types = {name: launch.signature.get(name, "constexpr") for name in names}
    # Pointers from torch's allocator are always divisible.
    divisible = [name for name, kind in types.items() if kind.startswith("*") or (aligned and kind.startswith("i"))]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in divisible}
    source = ASTSource(launch.function, types, constexprs=launch.constants, attrs=attributes)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    log = io.StringIO()
    try:
        with contextlib.redirect_stdout(log):  # Triton prints there what ptxas says
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:
        raise RunError(f"kernel {launch.name} does not compile for sm_{capability}", why=str(error)) from error
    return ptxas_figures(log.getvalue(), compiled.metadata.shared)


def is_specialised(launch: Launch) -> bool:
    """Whether Triton compiles it a second time for sizes that are divisible by 16."""
    sizes = [one for one in launch.function.params if launch.signature.get(one.name, "").startswith("i")]
    return any(not (one.do_not_specialize or one.do_not_specialize_on_alignment) for one in sizes)


def worst(launch: Launch, capability: int) -> Figures:
    """The larger figures of all compilations that a launch can lead to."""
    found = [compile_launch(launch, capability, aligned=False)]
    if is_specialised(launch):
        found.append(compile_launch(launch, capability, aligned=True))
    return Figures(
        max(one.registers for one in found),
        max(one.spilled_bytes for one in found),
        max(one.shared_bytes for one in found),
    )


def objections(name: str, capability: int, figures: Figures) -> list[str]:
    """Why a kernel must not be shipped; empty where it may."""
    found = []
    if figures.spilled_bytes:
        found.append(f"{name} spills {figures.spilled_bytes} bytes a thread on sm_{capability}")
    if figures.shared_bytes > TARGETS[capability]:
        found.append(
            f"{name} wants {figures.shared_bytes} bytes of {TARGETS[capability]} shared ones on sm_{capability}"
        )
    return found


def launches() -> list[Launch]:
    """Those of all ops that the registry runs by Triton, in its order."""
    return [launch for op, rows in KERNELS.items() if TRITON in rows for launch in load(op, TRITON.name).LAUNCHES]


@contextlib.contextmanager
def fresh_cache() -> Iterator[None]:
    """An empty folder as Triton's cache, so that everything is compiled; and the log of ptxas on standard output."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder, knobs.cache.scope(), knobs.nvidia.scope():
        knobs.cache.dir = folder
        knobs.nvidia.dump_ptxas_log = True
        yield


def gate(chosen: Sequence[Launch]) -> str:
    """Compile launches for all targets and return the text of the table.

    Raises:
        RunError: one does not compile, or some spill or don't fit.
    """
    import triton

    lines, against = [], []
    with fresh_cache():
        for launch in chosen:
            for capability in TARGETS:
                figures = worst(launch, capability)
                against += objections(launch.name, capability, figures)
                numbers = f"{figures.registers} | {figures.spilled_bytes} | {figures.shared_bytes}"
                setting = f"{launch.num_warps} | {launch.num_stages}"
                lines.append(f"| {launch.name} | {launch.tile} | {setting} | sm_{capability} | {numbers} |")
    if against:
        raise RunError(
            "\n".join(against), fix="a smaller tile, fewer stages or more warps in the kernel's launch table"
        )
    return _HEAD.format(version=triton.__version__) + "\n".join(lines) + "\n"


_HEAD = """# Kernels compiled ahead of time

Written by `python -m recrl.kernels.aot` with triton {version}: compiled, not run; no GPU took part.
Registers and spilled bytes are per thread, shared memory is in bytes per block. Pointers are divisible by 16. Where
Triton specialises a kernel to sizes that are divisible by 16, a figure is the larger one of both compilations.

| kernel | tile | warps | stages | target | registers | spilled | shared |
|---|---|---|---|---|---|---|---|
"""


def make() -> str:
    """The table of all launches.

    Raises:
        UserError: nothing can be compiled here.
        RunError: as ``gate``.
    """
    if TRITON.missing():
        raise UserError("Triton is not installed", fix="pip install triton")
    if INTERPRETED:
        raise UserError("TRITON_INTERPRET is set", why="the interpreter compiles nothing", fix="unset it")
    return gate(launches())


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where a kernel must not be shipped or the table is out of date."""
    command = "python -m recrl.kernels.aot"
    parser = argparse.ArgumentParser(prog=command, description="Compile all Triton kernels.")
    parser.add_argument("--check", action="store_true", help=f"compare with {TABLE.name} in place of writing it")
    return settle(TABLE, make, check=parser.parse_args(arguments).check, command=command)


if __name__ == "__main__":
    sys.exit(main())
