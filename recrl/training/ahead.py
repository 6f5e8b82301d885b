"""The next step's data, made while this step computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """Calls ``make(step)``, a function of the step alone, one step ahead in a thread of its own.

    Whichever steps are asked for, in whatever order, each gives what ``make`` gives; an exception rises where its step
    is asked for.
    """

    def __init__(self, make: Callable[[int], Made]) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._coming: tuple[int, Future[Made]] | None = None

    def __call__(self, step: int) -> Made:
        coming = (
            self._coming if self._coming and self._coming[0] == step else (step, self._pool.submit(self._make, step))
        )
        made = coming[1].result()
        self._coming = step + 1, self._pool.submit(self._make, step + 1)
        return made
