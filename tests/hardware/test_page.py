"""The page of hardware is what profiles and planner say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recrl.hardware import page
from recrl.hardware.profiles import known_profiles

PAGE = Path(__file__).parents[2] / "docs" / "hardware.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page.page(), "write it again with `python -m recrl.hardware.page`"


def test_every_device_and_every_plan_is_there() -> None:
    text = page.page()
    devices = [name for name in known_profiles() if not name.endswith(("-8", "-64")) and name != "cpu"]
    assert all(f"\n`{name}`\n" in text for name in devices)
    assert all(f"\n### {model} on {machine}\n" in text for model in page.MODELS for machine in page.MACHINES)
    assert "Nothing here ran on the devices" in text


def test_recorded_runs_took_what_was_predicted_within_a_tenth() -> None:
    head, *rows = json.loads(page.MEMORY.read_text(encoding="utf-8"))
    predicted, measured = head.index("predicted, MB"), head.index("measured, MB")
    assert {row[0] for row in rows} == {"rl", "sft"}
    for row in rows:
        assert int(row[predicted]) == pytest.approx(int(row[measured]), rel=0.1), row
