"""What this machine has, and whether a run can work on it.

Nothing heavy loads with this file: a broken package is one of the things that it has to tell.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import statistics
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recrl import __version__
from recrl.errors import UserError
from recrl.hardware.profiles import known_profiles, load_profile

if TYPE_CHECKING:
    import torch

CORE = {
    "torch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "faiss-cpu": "faiss",
    "threadpoolctl": "threadpoolctl",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "click": "click",
    "rich": "rich",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "psutil": "psutil",
    "tomli-w": "tomli_w",
}
"""Distribution -> the module that it brings."""

LINKED = {
    "recrl.commands": "recrl.commands.main",
    "recrl.kernels": "recrl.kernels.prefix_attention.reference",
    "recrl.hw_profiles": None,
}
"""Folder that stands in the package through a link -> a module in it; None where it holds no code."""

COPY_BYTES = 256 * 2**20
REPEATS = 7


@dataclass(frozen=True)
class Examination:
    """What was found; ``problems`` is empty where a run can work."""

    facts: dict[str, dict[str, Any]]
    problems: list[str]

    def as_json(self) -> dict[str, Any]:
        return {**self.facts, "problems": self.problems, "ok": not self.problems}


def examine(folder: Path) -> Examination:
    """Look at everything; ``folder`` is where runs would be kept. Takes some seconds and about 0.5 GiB."""
    problems: list[str] = []
    facts: dict[str, dict[str, Any]] = {
        "system": {
            "recrl": __version__,
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "installed at": str(Path(__file__).parents[1]),
        },
        "packages": {name: _package(name, module, problems) for name, module in CORE.items()},
        "links": {name: _link(name, module, problems) for name, module in LINKED.items()},
        "disk": _disk(folder),
    }
    broken = {line.split(":")[0] for line in problems}
    if "psutil" not in broken:
        facts["cpu"] = _cpu()
    if "torch" not in broken:
        facts |= _torch_facts(problems)
    facts["optional"] = {name: _optional(name, text) for name, text in OPTIONAL.items()}
    return Examination(facts, problems)


OPTIONAL = {
    "megatron-core": "needed by tensor-parallel training alone",
    "triton": "needed by GPU kernels alone; the plain torch ones are used",
    "liger-kernel": "needed by its GPU kernels alone",
}


def _package(name: str, module: str, problems: list[str]) -> str:
    """The version, or why it does not work; loading it is the only proof."""
    try:
        version = metadata.version(name)
        importlib.import_module(module)
    except metadata.PackageNotFoundError:
        problems.append(f"{name}: not installed; install recrl again with its dependencies")
        return "not installed"
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        problems.append(f"{name}: {version} is installed and does not load: {reason}")
        return f"{version}, does not load: {reason}"
    return version


def _link(name: str, module: str | None, problems: list[str]) -> str:
    """Whether a folder of the checkout came along into the package."""
    try:
        importlib.import_module(module or name)
    except ImportError as error:
        problems.append(f"{name}: not in this installation ({error}); a checkout without symbolic links looks so")
        return f"missing: {error}"
    return "ok"


def _disk(folder: Path) -> dict[str, Any]:
    writable = os.access(folder, os.W_OK)
    usage = shutil.disk_usage(folder)
    return {"folder": str(folder), "free_gib": round(usage.free / 2**30, 1), "writable": writable}


def _cpu() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "memory_gib": round(memory.total / 2**30, 1),
        "free_memory_gib": round(memory.available / 2**30, 1),
    }


def _torch_facts(problems: list[str]) -> dict[str, dict[str, Any]]:
    """Device, accelerators and speed; ``problems`` gets a line where the chosen device does not compute."""
    import torch

    from recrl.backends.device import choose_device

    device = choose_device("auto")
    why = "no accelerator answers" if device.type == "cpu" else f"torch.accelerator reports {device.type}"
    facts: dict[str, dict[str, Any]] = {
        "device": {"chosen": str(device), "why": why, "threads": torch.get_num_threads()},
        "accelerators": {"cuda": _cuda(), "ascend": _ascend()},
    }
    if device.type in known_profiles():
        facts["device"]["profile"] = load_profile(device.type).name
    try:
        facts["measured"] = measure(device)
    except RuntimeError as error:
        problems.append(f"device {device}: it does not compute: {str(error).splitlines()[0]}")
    return facts


def measure(device: torch.device) -> dict[str, float]:
    """Speed of the device: matrix products in 10^9 FLOP/s, and a copy in 10^9 bytes read and written a second."""
    from recrl.backends.device import measured_peak_flops

    figures = {
        f"matmul_{dtype}_gflops": round(measured_peak_flops(device, dtype) / 1e9, 1)
        for dtype in ("float32", "bfloat16")
    }
    return figures | {"copy_gb_per_s": round(copy_speed(device, COPY_BYTES) / 1e9, 2)}


def copy_speed(device: torch.device, num_bytes: int) -> float:
    """Bytes read and written a second by a copy of a tensor of ``num_bytes``; median of several."""
    import torch

    from recrl.backends.device import synchronize

    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)  # the first touch maps the pages, which is not what is measured
    seconds = []
    for _ in range(REPEATS):
        synchronize(device)
        begin = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return 2 * num_bytes / statistics.median(seconds)


def _cuda() -> str:
    import torch

    if not torch.backends.cuda.is_built():
        return f"no: torch {torch.__version__} is built without CUDA; install its CUDA build"
    if not torch.cuda.is_available():
        return f"no: torch is built for CUDA {torch.version.cuda}, and no GPU answers; check the driver"
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"yes: {len(names)} x {names[0]}, CUDA {torch.version.cuda}"


def _ascend() -> str:
    from recrl.backends.device import choose_device

    try:
        return f"yes: {choose_device('npu')}"
    except UserError as error:
        return f"no: {error.why}"


def _optional(name: str, text: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"not installed; {text}"
