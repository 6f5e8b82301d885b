"""Some of many rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` rows that cover ``count`` of them in order."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def evenly(count: int, size: int) -> NDArray[np.int64]:
    """At most ``size`` of ``count`` rows, at even distances from the first on."""
    return np.unique(np.linspace(0, count - 1, min(count, size)).astype(np.int64))
