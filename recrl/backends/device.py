"""The one file that knows devices: choice, memory, random state, arithmetic."""

from __future__ import annotations

import importlib.util
import logging
import resource
import sys
import time
from contextlib import AbstractContextManager

import torch

from recrl.errors import UserError

logger = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(wanted: str) -> torch.device:
    """``auto`` takes the accelerator if there is one and says so; any other name works or fails.

    Raises:
        UserError: the device is not to be had on this machine.
    """
    if wanted.startswith("npu"):
        _import_npu()
    if wanted == "auto":
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        logger.info("device: %s", device)
        return device
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device).cpu()  # "meta" has no data to give back
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"backend.device = {wanted!r}", why=reason, fix="`recrl doctor` lists what this machine has"
        ) from None
    return device


def _import_npu() -> None:
    """torch-npu without CANN breaks on import; say so in one sentence."""
    if hasattr(torch, "npu"):
        return
    if importlib.util.find_spec("torch_npu") is None:
        raise UserError(
            "backend.device = 'npu'", why="torch-npu is not installed", fix="pip install 'recrl[npu]' beside CANN"
        )
    try:
        importlib.import_module("torch_npu")
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(
            "backend.device = 'npu'", why=f"torch-npu does not load: {error}", fix="install the CANN that it wants"
        ) from None


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    """Arithmetic of matrix products; float32 leaves everything alone."""
    return torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32")


def peak_memory_gb(device: torch.device) -> float:
    """The most memory that the process held, in 10^9 bytes: allocated on an accelerator, resident on CPU."""
    if device.type != "cpu":
        return float(torch.accelerator.max_memory_allocated(device)) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read afterwards means something."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def measured_peak_flops(device: torch.device, dtype: str, size: int = 1024, repeats: int = 5) -> float:
    """FLOP/s of a large matrix product, best of ``repeats``: what MFU is a share of where no profile gives a peak."""
    left, right = (torch.ones(size, size, device=device, dtype=DTYPES[dtype]) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        synchronize(device)
        begin = time.perf_counter()
        left @ right
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best
