"""How fast a device copies its own memory."""

from __future__ import annotations

import statistics
import time

import torch

from recrl.device.runtime import synchronize

COPY_BYTES = 256 * 2**20
REPEATS = 7


def copy_speed(device: torch.device, num_bytes: int = COPY_BYTES) -> float:
    """Bytes read and written a second by a copy of a tensor of ``num_bytes``; median of several."""
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
