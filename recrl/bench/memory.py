"""Peak memory of a piece of work, in a process that has done nothing else yet.

``ru_maxrss`` alone would not do: a process starts with its parent's peak as its own, and loading may have peaked higher
than the work will. Linux lets a process set its peak back; elsewhere the work is seen only as far as it goes beyond.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from recrl.device.runtime import peak_memory_gb

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What ``clear_refs`` takes for setting the peak resident set back (proc_pid_clear_refs(5))."""


def peak_of(task: Callable[[], object]) -> int:
    """Bytes of resident memory that ``task`` needed at most beyond what there was before it."""
    _give_back()
    before = psutil.Process().memory_info().rss if _reset() else _peak()
    task()
    return max(0, _peak() - int(before))


def _give_back() -> None:
    """Return what loading has freed: work that takes it up again would seem to need none."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _reset() -> bool:
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError:  # not Linux, or not allowed here
        return False
    return True


def _peak() -> int:
    """Bytes of the most resident memory so far, since the last reset."""
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(peak_memory_gb(torch.device("cpu")) * 1e9)
