"""The two layouts: the same update, counted as it is, and refused where it differs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from recrl.bench import update
from recrl.bench.layouts import LayoutRl, budgets, choose_budget, flat_gradient, make_layout_rl, unpacked
from recrl.bench.measurement import Setting, UnequalWorkError
from recrl.bench.update import COLUMNS, SEVERAL, UpdateFigures, check_gradients, first_step, measure
from recrl.bench.world import WorldSize


def layout_rl(
    world: Path, toy: WorldSize, layout: update.Layout, active: int = 4, **sections: dict[str, object]
) -> LayoutRl:
    return make_layout_rl(world, toy, layout, active, 1, **sections)


def test_a_toy_case_is_measured_and_shown(toy: WorldSize, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recrl.bench.update.run_child", lambda _, given: {"peak": 1000.0 * given["active"]})
    case = measure(toy, setting)
    assert case.gradient_difference <= 1e-5
    assert len(case.update["shared"].runs) == len(case.update["unpacked"].runs) == setting.repeats
    # 16 prompt tokens; two of three response tokens are read by the model.
    assert case.all["shared"]["tokens/actor_effective"] == 2 * (16 + 4 * 2)
    assert case.two["shared"]["tokens/actor_effective"] == 2 * (16 + 2 * 2)
    assert case.all["unpacked"]["tokens/actor_effective"] == 2 * 4 * (16 + 2)
    assert case.two["unpacked"]["tokens/actor_effective"] == 2 * 2 * (16 + 2)
    assert case.all["shared"]["memory"] == 2 * case.two["shared"]["memory"]
    kept = UpdateFigures.model_validate_json(UpdateFigures(cases=[case]).model_dump_json())
    shown = update.render(kept)
    assert "| 0.3M | 2 x 4 | 16 |" in shown
    assert "| effective tokens | 14.78x | 48 | 40 | 1.20x | 144 | 72 | 2.00x |" in shown
    assert all(column.title in shown for column in COLUMNS)


def test_a_row_with_its_prompt_has_the_log_probabilities_of_the_shared_prefix(world: Path, toy: WorldSize) -> None:
    rl = layout_rl(world, toy, "shared")
    batch = rl.active_batch()
    apart = unpacked(batch)
    assert len(apart.prompts) == len(apart) == len(batch) == 8
    assert apart.width == 1
    with torch.no_grad():
        torch.testing.assert_close(rl.policy.logp(apart)[0], rl.policy.logp(batch)[0], atol=1e-5, rtol=1e-5)


def test_a_step_goes_through_the_layout(world: Path, toy: WorldSize) -> None:
    rl = layout_rl(world, toy, "unpacked", active=2, rl=SEVERAL)
    values = rl.step()
    assert values["signal/active_rows"] == 4
    assert values["tokens/actor_effective"] == 4 * 18
    assert values["timing_s/old_log_prob"] > 0
    assert values["timing_s/ref"] > 0
    assert values["actor/optimizer_steps"] == 2


def test_equal_layouts_pass_and_other_weights_are_refused(world: Path, toy: WorldSize) -> None:
    shared, apart = layout_rl(world, toy, "shared"), layout_rl(world, toy, "unpacked")
    assert check_gradients(shared, apart) <= 1e-5
    with torch.no_grad():
        apart.policy.model.get_input_embeddings().weight.mul_(1.001)
    with pytest.raises(UnequalWorkError, match="gradients differ"):
        check_gradients(shared, apart)


def test_fewer_rows_are_another_gradient(world: Path, toy: WorldSize) -> None:
    rl = layout_rl(world, toy, "shared")
    whole, part = flat_gradient(rl, rl.active_batch()), flat_gradient(rl, rl.active_batch().select(torch.tensor([0])))
    assert whole.norm() > 0
    assert (whole - part).norm() / whole.norm() > update.TOLERANCE


def test_the_fastest_budget_is_taken_and_nothing_is_left_behind(world: Path, toy: WorldSize) -> None:
    rl = layout_rl(world, toy, "unpacked")
    tried = choose_budget(rl)
    assert list(tried) == budgets(rl.active_batch()) == [18, 72, 144]
    assert rl.update_budget in tried
    assert tried[rl.update_budget] == min(tried.values())
    assert all(parameter.grad is None for parameter in rl.policy.model.parameters())
    assert rl.meter.take("update_actor")["tokens/actor_effective"] == 0


def test_the_first_step_of_a_child_needs_memory(toy: WorldSize) -> None:
    given = {"size": asdict(toy), "layout": "shared", "active": 2, "budget": 64, "threads": 1}
    assert first_step(given)["peak"] > 0
