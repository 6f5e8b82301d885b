"""Utilisation: a toy case, and a formula that torch's counter contradicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from recrl.bench import utilisation
from recrl.bench.layouts import make_layout_rl
from recrl.bench.measurement import Setting, UnequalWorkError
from recrl.bench.utilisation import CPU, CountingMeter, UtilisationFigures, check_flops, run
from recrl.bench.world import WorldSize
from recrl.training.meter import products_of


def test_a_toy_case_is_measured_shown_and_drawn(toy: WorldSize, setting: Setting) -> None:
    figures = run(setting, [toy])
    assert figures.counted == pytest.approx(1, abs=0.05)
    single, half = figures.cases
    assert (single.dtype, half.dtype) == ("float32", "bfloat16")
    assert single.tokens == half.tokens == 2 * (16 + 4 * 2)
    assert single.flops == half.flops > 0
    assert len(single.update.runs) == len(single.peak_flops) == setting.repeats
    kept = UtilisationFigures.model_validate_json(figures.model_dump_json())
    assert "| 0.3M | 274,112 | bfloat16 | 48 (" in utilisation.render(kept)
    (data,) = utilisation.plots(kept).values()
    assert data.startswith(b"\x89PNG")


def test_flops_are_those_of_one_update(world: Path, toy: WorldSize, setting: Setting) -> None:
    (case, _) = utilisation.measure(world, toy, setting, product=64)
    rl = make_layout_rl(world, toy, "shared", toy.group, 1)
    rl.meter = CountingMeter(products_of(rl.policy), CPU, "float32")
    rl.update(rl.active_batch())
    assert isinstance(rl.meter, CountingMeter)
    assert case.flops == pytest.approx(rl.meter.flops)


def test_a_formula_that_torch_contradicts_is_refused(
    world: Path, toy: WorldSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = CountingMeter.count
    monkeypatch.setattr(CountingMeter, "count", lambda self, *given: count(self, *given, passes=2))
    with pytest.raises(UnequalWorkError, match="of the FLOPs that torch counts"):
        check_flops(world / "model", toy.prompt_tokens)
