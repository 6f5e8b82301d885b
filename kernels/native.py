"""The ops' C sources, compiled at first use with the machine's own compiler, and calls into them.

One library holds all of them. It lies in a cache folder under a name that hashes everything it was made from, so that a
change of source, compiler or CPU makes a new one; processes that build at the same time each build their own and the
last to finish stays. Its loops run on torch's own OpenMP threads: a pool of ours would spin against torch's.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
SOURCES = (
    "native.c",
    "linear_logp/linear_logp.c",
    "norm_rotary/norm_rotary.c",
    "prefix_attention/prefix_attention.c",
    "rms_norm/rms_norm.c",
    "shared_prefix_attention/shared_prefix_attention.c",
    "swiglu/swiglu.c",
)
HEADERS = ("native.h", "attention.h")
# Not -ffast-math: it would lose NaNs, and linking with it makes the whole process flush denormal numbers to zero. The
# sources say themselves which sums may be reordered (`omp simd reduction`).
FLAGS = ("-std=c11", "-O3", "-fPIC", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
TARGETS = (("-march=native",), ("-mcpu=native",), ())
"""How compilers spell "for this CPU"; the first that the compiler takes."""
COMPILERS = ("cc", "gcc", "clang")
TYPES = {torch.float32: 0, torch.bfloat16: 1}
"""Element types as native.h numbers them."""


class BuildError(Exception):
    """Why there is no library."""


def obstacle() -> str | None:
    """Why the native ops can't run on this machine; None where they can. The first call compiles or loads them."""
    return _outcome()[1]


def call(name: str, *values: Tensor | int | float | None) -> None:
    """Call a C function: a tensor is passed as the address of its data, an int as int64_t, a float as float.

    A tensor's element type (``kind``) and strides are arguments of their own where the function asks for them.
    """
    library, why = _outcome()
    assert library is not None, why
    torch.get_num_threads()  # tells OpenMP, in a thread where torch has not yet run, how many threads torch may use
    getattr(library, name)(*(_argument(value) for value in values))


def kind(tensor: Tensor | None) -> int:
    """The number of a tensor's element type in C; 0 for no tensor."""
    if tensor is None:
        return 0
    assert tensor.device.type == "cpu", "native ops read the memory of the CPU"
    assert tensor.dtype in TYPES, f"native ops compute in {', '.join(map(str, TYPES))}, not in {tensor.dtype}"
    return TYPES[tensor.dtype]


def cache_folder() -> Path:
    """``$RECRL_CACHE``, or ``recrl`` in the user's cache folder."""
    given = os.environ.get("RECRL_CACHE")
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "recrl"


def build() -> Path:
    """The library's file, compiled unless the cache has it.

    Raises:
        BuildError: no compiler, it refuses the sources, or the cache can't be written.
    """
    compiler = _compiler()
    flags, target = _target(compiler)
    key = hashlib.sha256("\0".join([*compiler, *flags, target, *SOURCES]).encode())
    for name in (*SOURCES, *HEADERS):
        key.update((FOLDER / name).read_bytes())
    library = cache_folder() / "native" / f"{key.hexdigest()[:24]}.so"
    if library.is_file():
        return library
    begin = time.perf_counter()
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            made = Path(scratch) / "library.so"
            _run([*compiler, *flags, "-shared", *(str(FOLDER / name) for name in SOURCES), "-o", str(made), "-lm"])
            made.replace(library)
    except OSError as error:
        raise BuildError(f"the cache can't be written ({error}); set RECRL_CACHE to a folder that can") from None
    logger.info("native kernels compiled in %.1f s: %s", time.perf_counter() - begin, library)
    return library


def _compiler() -> list[str]:
    wanted = shlex.split(os.environ.get("CC", ""))
    for command in [wanted] if wanted else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    raise BuildError(f"CC={wanted[0]} is not to be found" if wanted else f"no C compiler ({', '.join(COMPILERS)})")


def _target(compiler: list[str]) -> tuple[list[str], str]:
    """Flags, and all that the compiler defines under them: its version and the CPU's abilities among it."""
    refused = ""
    for target in TARGETS:
        flags = [*FLAGS, *target]
        try:
            return flags, _run([*compiler, *flags, "-dM", "-E", "-x", "c", os.devnull])
        except BuildError as error:
            refused = str(error)
    raise BuildError(refused)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} does not run: {error}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or [""]
        raise BuildError(f"{command[0]} failed ({done.returncode}): {lines[0]}")
    return done.stdout


@functools.cache
def _outcome() -> tuple[ctypes.CDLL | None, str | None]:
    """The library, or why there is none."""
    try:
        file = build()
    except BuildError as error:
        logger.warning("no native kernels: %s", error)
        return None, f"native needs a C compiler: {error}"
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        logger.warning("native kernels don't load: %s", error)
        return None, f"native does not load: {error}"
    library.use_threads(*_threads())
    return library, None


def _threads() -> list[ctypes.c_void_p]:
    """Addresses of the OpenMP runtime that torch itself calls; nulls, for one thread, where torch has no such one.

    Looked up through the library that calls it: other packages bring OpenMP runtimes of their own into the process.
    """
    suffix = "dylib" if sys.platform == "darwin" else "so"
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "omp_get_max_threads")
    try:
        caller = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}"))
        return [ctypes.cast(caller[name], ctypes.c_void_p) for name in names]
    except (OSError, AttributeError) as error:
        logger.warning("native kernels run on one thread: %s", error)
        return [ctypes.c_void_p() for _ in names]


def _argument(value: Tensor | int | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_void_p() if value is None else ctypes.c_float(value)
