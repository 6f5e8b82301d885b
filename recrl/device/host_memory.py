"""The host's memory allocator, as a training loop on CPU wants it."""

from __future__ import annotations

import ctypes

# Names and numbers of glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""Bytes; glibc refuses more."""
NEVER_TRIM = 2**31 - 1
"""Bytes; the largest value of a C int."""


def keep_freed_memory() -> bool:
    """Let the process keep what it frees for its next tensors; False where the C library knows no such setting.

    A step frees and takes tensors of a megabyte again and again. By default glibc gives their pages back to the
    system, which clears every page before it hands it out anew. The peak of the process stays what it was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD) and mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)
    return bool(kept)
