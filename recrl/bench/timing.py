"""Wall times of several tasks, taken turn by turn, so that a disturbance of the machine meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from recrl.bench.measurement import Seconds


def seconds_of(task: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    task()
    return time.perf_counter() - begin


def interleave(
    tasks: Mapping[str, Callable[[], object]], repeats: int, *, warmup: int = 1, settle: bool = False
) -> dict[str, Seconds]:
    """Run every task in turn, ``warmup`` + ``repeats`` rounds; the times of the warm-up are dropped.

    Args:
        settle: run a task once more before each time that is taken: a short one would else begin with the caches that a
            long one left, which no user of either meets.
    """
    runs: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(warmup + repeats):
        for name, task in tasks.items():
            if settle:
                task()
            spent = seconds_of(task)
            if turn >= warmup:
                runs[name].append(spent)
    return {name: Seconds(runs=spent) for name, spent in runs.items()}
