"""Peak memory of a task, whatever the process held before."""

from __future__ import annotations

import sys

import pytest
import torch

from recrl.bench.memory import peak_of

MEGABYTE = 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak can't be set back")
def test_what_was_freed_before_does_not_hide_the_task() -> None:
    torch.ones(200 * MEGABYTE, dtype=torch.uint8)
    peak = peak_of(lambda: torch.ones(60 * MEGABYTE, dtype=torch.uint8))
    assert 55 * MEGABYTE < peak < 120 * MEGABYTE


def test_a_task_that_needs_nothing_has_a_small_peak() -> None:
    assert 0 <= peak_of(lambda: None) < 20 * MEGABYTE
