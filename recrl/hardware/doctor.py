"""What this machine has, and whether a run can work on it.

Nothing heavy loads with this file: a broken package is one of the things that it has to tell.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recrl import __version__
from recrl.device.loading import FAILURES, explain_broken_npu, first_line
from recrl.errors import UserError

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

OPTIONAL = {
    "triton": "GPU kernels alone need it: pip install 'recrl[triton]'",
    "trl": "`recrl bench` alone compares with it: pip install 'recrl[bench]'",
}
"""Distribution -> who needs it, and how to get it."""

PROGRAMS = ("torchrun", "sbatch", "kubectl")
"""What ``recrl launch --submit`` calls."""


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
    facts["optional"] = {name: _version(name) or f"not installed; {text}" for name, text in OPTIONAL.items()}
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    facts["launch"] = {name: shutil.which(name, path=programs) or "not to be found" for name in PROGRAMS}
    return Examination(facts, problems)


def _package(name: str, module: str, problems: list[str]) -> str:
    """The version, or why it does not work; loading it is the only proof."""
    version = _version(name)
    if version is None:
        problems.append(f"{name}: not installed; install recrl again with its dependencies")
        return "not installed"
    try:
        with explain_broken_npu():
            importlib.import_module(module)
    except UserError as error:  # torch-npu, which torch and transformers load
        problems.append(f"{name}: {error.found}: {error.why}; {error.fix}")
        return f"{version}, does not load: {error.found}"
    except (*FAILURES, AttributeError) as error:
        problems.append(f"{name}: {version} is installed and does not load: {first_line(error)}")
        return f"{version}, does not load: {first_line(error)}"
    return version


def _version(name: str) -> str | None:
    """Of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


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
    """Device, accelerators, kernels and speed; ``problems`` gets a line where the chosen device does not compute."""
    import torch

    from recrl.device.runtime import choose_device
    from recrl.hardware.detect import detect

    device, profile = choose_device("auto"), detect()
    why = "no accelerator answers" if device.type == "cpu" else f"torch.accelerator reports {device.type}"
    facts: dict[str, dict[str, Any]] = {
        "device": {
            "chosen": str(device),
            "why": why,
            "threads": torch.get_num_threads(),
            "profile": profile.profile or "none",
            "profile_why": profile.why,
            **_device_memory(device),
            "collectives": _collectives(device),
        },
        "accelerators": {"cuda": _cuda(), "ascend": _ascend(), "megatron": _megatron(device.type)},
        "kernels": {op: kernel_choice(op, device.type) for op in _ops()},
        "native": _native(),
    }
    try:
        facts["measured"] = measure(device)
    except RuntimeError as error:
        problems.append(f"device {device}: it does not compute: {first_line(error)}")
    return facts


def _device_memory(device: torch.device) -> dict[str, float]:
    """Of one accelerator; a CPU's memory is the machine's."""
    import torch

    if device.type == "cpu":
        return {}
    free, total = torch.get_device_module(device).mem_get_info()
    return {"memory_gib": round(total / 2**30, 1), "free_memory_gib": round(free / 2**30, 1)}


def _collectives(device: torch.device) -> str:
    """What ranks on the device talk through."""
    from torch import distributed

    from recrl.device.runtime import distributed_backend

    name = distributed_backend(device)
    if distributed.is_available() and distributed.is_backend_available(name):
        return name
    return f"this torch was built without {name}: a run has one rank"


def _ops() -> list[str]:
    from recrl.kernels.registry import KERNELS

    return list(KERNELS)


def kernel_choice(op: str, device: str) -> dict[str, Any]:
    """The implementation that ``auto`` takes on a device type, and of each other one why it is not that."""
    from recrl.kernels.registry import KERNELS

    obstacles = {row.name: row.obstacle(device) for row in KERNELS[op]}
    chosen = next(name for name, obstacle in obstacles.items() if obstacle is None)
    others = {
        name: (obstacle or "usable, and slower than the chosen one").removeprefix(f"{name} ")
        for name, obstacle in obstacles.items()
        if name != chosen
    }
    return {"chosen": chosen, "others": others}


def _native() -> dict[str, str]:
    """Whether the kernels in C were compiled."""
    from recrl.kernels import native

    obstacle = native.obstacle()
    if obstacle is None:
        return {"compiled": f"yes: {native.build()}"}
    return {"compiled": f"no: {obstacle}; the plain torch kernels, which are slower, take their place"}


def measure(device: torch.device) -> dict[str, Any]:
    """Speed of the device: matrix products in 10^9 FLOP/s, a copy in 10^9 bytes read and written a second.

    ``auto_dtype`` is what ``backend.dtype = "auto"`` takes, and why.
    """
    from recrl.device.copy_speed import copy_speed
    from recrl.device.matmul_speed import comparison, faster_dtype, product_flops
    from recrl.device.runtime import DTYPES

    speeds = {f"matmul_{dtype}_gflops": round(product_flops(device, dtype) / 1e9, 1) for dtype in DTYPES}
    return speeds | {
        "auto_dtype": f"{faster_dtype(device)}, since {comparison(device)}",
        "copy_gb_per_s": round(copy_speed(device) / 1e9, 2),
    }


def _cuda() -> str:
    import torch

    if not torch.backends.cuda.is_built():
        fix = "install its CUDA build, then pip install 'recrl[triton]'"
        return f"no: torch {torch.__version__} is built without CUDA; {fix}"
    if not torch.cuda.is_available():
        return f"no: torch is built for CUDA {torch.version.cuda}, and no GPU answers; check the driver with nvidia-smi"
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"yes: {len(names)} x {names[0]}, CUDA {torch.version.cuda}"


def _ascend() -> str:
    from recrl.device.runtime import choose_device

    npu, release = _version("torch-npu"), _release(_version("torch") or "")
    if npu is not None and _release(npu) != release:
        return f"no: torch-npu {npu} does not go with torch {release}; pip install torch-npu=={release}"
    try:
        return f"yes: {choose_device('npu')}, torch-npu {npu}"
    except UserError as error:
        fix = error.fix if npu else f"install CANN, then pip install torch-npu=={release}"
        return f"no: {error.why}; {fix}"


def _release(version: str) -> str:
    """X.Y.Z: torch-npu X.Y.Z.postN goes with torch X.Y.Z+build."""
    return ".".join(version.split("+")[0].split(".")[:3])


def _megatron(device: str) -> str:
    """Whether ``backend.engine = "megatron"`` works; loading it takes seconds and is left to the run."""
    version = _version("megatron-core")
    if version is None:
        return "no: megatron-core is not installed; pip install 'recrl[megatron]'"
    if device == "npu" and importlib.util.find_spec("mindspeed") is None:
        return f"no: megatron-core {version} needs MindSpeed on Ascend; install the MindSpeed release for it"
    return f"yes: megatron-core {version}"
