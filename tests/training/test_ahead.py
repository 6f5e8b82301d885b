"""Making data one step ahead changes nothing but when it is made."""

from __future__ import annotations

import threading

import pytest

from recrl.training.ahead import Ahead


def test_every_step_gets_its_own_in_any_order() -> None:
    ahead = Ahead(lambda step: step * step)
    assert [ahead(step) for step in (0, 1, 2, 7, 8, 3, 3)] == [0, 1, 4, 49, 64, 9, 9]


def test_the_next_step_is_made_before_it_is_asked_for() -> None:
    made = {step: threading.Event() for step in range(3)}

    def make(step: int) -> int:
        made[step].set()
        return step

    ahead = Ahead(make)
    assert ahead(0) == 0
    assert made[1].wait(10)
    assert not made[2].is_set()


def test_an_exception_rises_at_its_own_step() -> None:
    def make(step: int) -> int:
        if step == 1:
            raise ValueError("no such step")
        return step

    ahead = Ahead(make)
    assert ahead(0) == 0
    with pytest.raises(ValueError, match="no such step"):
        ahead(1)
    assert ahead(0) == 0
