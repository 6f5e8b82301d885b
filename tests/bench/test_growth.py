"""Growth: one point in a process of its own, and how figures are shown."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from recrl.bench import growth
from recrl.bench.child import run_child
from recrl.bench.growth import PARTS, GrowthFigures, Point, rollout_parts, run
from recrl.bench.measurement import Setting
from recrl.bench.world import WorldSize
from recrl.errors import RunError
from recrl.training.rl import Rl


def test_a_toy_point_is_measured_in_a_child(toy: WorldSize) -> None:
    given = {"size": asdict(toy), "threads": 1, "repeats": 2}
    point = Point.model_validate(run_child("recrl.bench.growth:measure", given))
    assert (point.prompts, point.prompt_tokens, point.group, point.items) == (2, 16, 4, 50)
    assert len(point.step.runs) == 2
    assert point.phases["gen"] + point.phases["update_actor"] <= 1.5 * point.step.median
    assert all(point.parts[part] > 0 for part in PARTS)
    assert point.peak > 0


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RunError) as raised:
        run_child("json:nothing", {})
    assert raised.value.why == "AttributeError: module 'json' has no attribute 'nothing'"


def test_the_parts_of_a_rollout_leave_the_policy_as_it_was(rl: Rl) -> None:
    policy = rl.policy
    parts = rollout_parts(rl, 2)
    assert set(parts) == set(PARTS)
    assert rl.policy is policy


def point(**sizes: int) -> Point:
    values = {
        "shape": "0.3M",
        "parameters": 274_112,
        "prompts": 2,
        "prompt_tokens": 16,
        "group": 4,
        "items": 50,
    } | sizes
    parts = {"prefill": 0.01, "extend": 0.02 * values["group"], "scoring": 0.001, "lookup": 0.002}  # type: ignore[operator]
    return Point.model_validate(
        values
        | {"step": {"runs": [0.1]}, "phases": {"gen": 0.04, "update_actor": 0.05}, "parts": parts, "peak": 2_000_000}
    )


def test_a_size_on_several_axes_is_measured_once(
    toy: WorldSize, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def child(_: str, given: dict[str, object]) -> dict[str, object]:
        asked.append(given["size"])
        return point().model_dump()

    monkeypatch.setattr("recrl.bench.growth.run_child", child)
    figures = run(setting, {"group": [toy], "prompt": [toy]})
    assert asked == [asdict(toy)]
    assert figures.axes["group"] == figures.axes["prompt"]


def test_growth_is_told_in_ratios_and_drawn() -> None:
    figures = GrowthFigures(
        axes={"group": [point(group=4), point(group=16)], "model": [point(), point(parameters=10**6)]}
    )
    shown = growth.render(figures)
    assert "G from 4 to 16 (4.00x): prefill 1.00x (10 ms to 10 ms), extend 4.00x (80 ms to 320 ms)." in shown
    assert "![G](plots/growth-group.png)" in shown
    assert "| 1,000,000 | 100 ms | 40 ms | 50 ms |" in shown
    drawn = growth.plots(figures)
    assert set(drawn) == {"growth-group.png", "growth-model.png"}
    for data in drawn.values():
        assert data.startswith(b"\x89PNG")
        assert len(data) < 100_000
