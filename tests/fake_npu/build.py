"""The fake device's library, compiled once for a source, a torch and a compiler."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

SOURCE = Path(__file__).parent / "fake_npu.cpp"
FLAGS = ("-std=c++20", "-O0", "-shared", "-fPIC", "-w")
LIBRARIES = ("-ltorch", "-ltorch_cpu", "-lc10")


def compiler() -> str | None:
    """The C++ compiler of this machine."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)


def build(cache: Path, command: str) -> Path:
    """The compiled library in ``cache``; parallel callers wait for the first, and nothing half-written has its name."""
    said = subprocess.run([command, "--version"], check=True, capture_output=True).stdout
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), torch.__version__.encode(), *map(str.encode, FLAGS), said]))
    cache.mkdir(parents=True, exist_ok=True)
    library = cache / f"fake_npu-{key.hexdigest()[:16]}.so"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            beside = library.with_suffix(".tmp")
            includes = [f"-I{folder}" for folder in include_paths("cpu")]
            folders = [f"-L{folder}" for folder in library_paths("cpu")]
            subprocess.run([command, *FLAGS, *includes, SOURCE, "-o", beside, *folders, *LIBRARIES], check=True)
            beside.rename(library)
    return library
