"""Tasks take turns, and the figures are those of the rounds after the warm-up."""

from __future__ import annotations

from recrl.bench.markdown import megabytes, milliseconds, ratio, table
from recrl.bench.measurement import Seconds
from recrl.bench.plots import short
from recrl.bench.timing import interleave


def test_tasks_take_turns_and_the_warm_up_is_dropped() -> None:
    order: list[str] = []
    times = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, warmup=1)
    assert order == ["a", "b"] * 3
    assert {name: len(seconds.runs) for name, seconds in times.items()} == {"a": 2, "b": 2}
    assert all(run >= 0 for run in times["a"].runs)


def test_tasks_that_settle_run_once_before_each_run_that_counts() -> None:
    order: list[str] = []
    tasks = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = interleave(tasks, 2, warmup=1, settle=True)
    assert order == ["a", "a", "b", "b"] * 3
    assert len(times["a"].runs) == 2


def test_a_median_is_not_moved_by_one_disturbed_run() -> None:
    assert Seconds(runs=[1.0, 90.0, 2.0]).median == 2.0


def test_figures_are_short() -> None:
    assert [milliseconds(value) for value in (0.0123456, 0.5, 1.5, 123.4)] == ["12.3 ms", "500 ms", "1.5 s", "123 s"]
    assert [ratio(value) for value in (0.5, 1.234, 23.71)] == ["0.50x", "1.23x", "23.7x"]
    assert [megabytes(value) for value in (1.5e6, 2.2e9)] == ["1.5 MB", "2,200 MB"]
    assert [short(value) for value in (512, 8191, 1e6, 150_500_000)] == ["512", "8.2k", "1M", "150M"]


def test_a_table_is_markdown() -> None:
    assert table(("a", "b"), [(1, "x")]) == "| a | b |\n| --- | ---: |\n| 1 | x |"
