"""Arithmetic whose result does not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS and OpenMP on one thread within the block.

    Threads change the order of sums, hence the last bits of an embedding, and k-means makes other codes of those. SIDs
    are part of a model's meaning, so they must not depend on the machine's core count; one thread quantises a million
    items in under a minute.
    """
    with threadpool_limits(limits=1):
        yield
