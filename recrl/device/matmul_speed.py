"""How fast a device multiplies matrices: what ``backend.dtype = "auto"`` goes by, and the peak behind MFU.

A linear layer multiplies in three memory layouts, one forward and two backward. Where a CPU has no bfloat16 arithmetic
their speeds differ by a factor of ten, so no single product stands for a training step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from recrl.device.runtime import DTYPES, synchronize

logger = logging.getLogger(__name__)
PRODUCTS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda states, weight: states @ weight.t(),  # a linear layer
    lambda states, weight: states @ weight,  # the gradient of its states
    lambda states, weight: states.t() @ weight,  # and of its weight
)
ARITHMETICS = {"float32": ("float32",), "bfloat16": ("bfloat16", "float32")}
"""``backend.dtype`` -> what a run's products are computed in: with bfloat16 some kernels keep to float32."""
SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
"""Rows and columns. The largest fills an accelerator; a CPU stops long before."""
COMPARED_S, PEAK_S = 0.0005, 0.005
"""Seconds of the three products above which a comparison, and a peak, need no larger ones."""
ROUNDS = 4
"""Measurements of everything, the first of which warms up; the fastest counts."""
MARGIN = 1.25
"""Times as fast as float32's that bfloat16's products must be, so that noise does not decide."""


def choose_dtype(wanted: str, device: torch.device) -> str:
    """The arithmetic of a run's matrix products, from ``backend.dtype``.

    ``auto`` takes bfloat16 only where its products are clearly faster than float32's, and says why; a name is taken as
    it is, with a warning where float32 is faster.
    """
    if wanted == "float32":
        return wanted
    if wanted == "auto":
        chosen = faster_dtype(device)
        logger.info("backend.dtype: %s, since %s", chosen, comparison(device))
        return chosen
    if bfloat16_time(device) > MARGIN:
        logger.warning(
            'backend.dtype: %s, although %s; a new run with "auto" takes float32', wanted, comparison(device)
        )
    return wanted


def faster_dtype(device: torch.device) -> str:
    """What ``auto`` takes on a device."""
    return "bfloat16" if bfloat16_time(device) * MARGIN < 1 else "float32"


def comparison(device: torch.device) -> str:
    """The reason for ``faster_dtype``, in words."""
    return f"bfloat16 products take {bfloat16_time(device):.2g} times as long as float32's here"


@cache
def bfloat16_time(device: torch.device) -> float:
    """Time of a linear layer's products in bfloat16 over that in float32, measured once a process, in about 10 ms."""
    for size in SIZES:
        seconds = dict.fromkeys(DTYPES, float("inf"))
        for _ in range(ROUNDS):
            for dtype in DTYPES:  # in turn, so that a busy moment slows both
                took = sum(_seconds(device, dtype, size))
                seconds[dtype] = min(seconds[dtype], took)
        if max(seconds.values()) > COMPARED_S:
            break
    return seconds["bfloat16"] / seconds["float32"]


def peak_flops(device: torch.device, dtype: str, sizes: Sequence[int] = SIZES) -> float:
    """The most FLOP/s that a run's products can reach: of every arithmetic that ``backend.dtype`` leads to."""
    return max(product_flops(device, used, sizes) for used in ARITHMETICS[dtype])


def product_flops(device: torch.device, dtype: str, sizes: Sequence[int] = SIZES) -> float:
    """FLOP/s of matrix products in one arithmetic, the best over layouts and growing sizes."""
    best = 0.0
    for size in sizes:
        rounds = [_seconds(device, dtype, size) for _ in range(ROUNDS)]
        best = max(best, 2 * size**3 / min(map(min, rounds)))
        if min(map(sum, rounds)) > PEAK_S:
            break
    return best


def _seconds(device: torch.device, dtype: str, size: int) -> list[float]:
    """Of each product, one after the other."""
    states, weight = (torch.ones(size, size, device=device, dtype=DTYPES[dtype]) for _ in range(2))
    found = []
    for product in PRODUCTS:
        synchronize(device)
        begin = time.perf_counter()
        product(states, weight)
        synchronize(device)
        found.append(time.perf_counter() - begin)
    return found
