"""What recipes ask of a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from recrl.errors import ConfigError
from recrl.hardware.step_load import step_load
from recrl.recipe import names


def test_recast_trains_on_two_rows_of_a_group() -> None:
    load = step_load("recast", prompts=64)
    assert (load.group, load.active, load.optimizer_steps) == (32, 2, 4)
    assert load.reference
    assert load.old_log_prob


def test_its_ablation_trains_on_all_rows() -> None:
    assert step_load("recast_repair_only").active == 32


def test_one_optimiser_step_needs_no_old_log_probability() -> None:
    assert not step_load("openonerec_rl").old_log_prob
    assert not step_load("dr_grpo").reference


def test_an_objective_that_looks_at_all_rows_first_costs_a_further_pass() -> None:
    assert step_load("bapo").log_probs_a_step == 1
    assert step_load("gspo").log_probs_a_step == 0


def test_group_and_prompts_are_replaced() -> None:
    load = step_load("openonerec_rl", group=8, prompts=5)
    assert (load.group, load.active, load.prompts) == (8, 8, 5)


@pytest.mark.parametrize("name", names())
def test_every_recipe_has_active_rows(name: str) -> None:
    load = step_load(name)
    assert 2 <= load.active <= load.group


def test_a_recipe_of_ones_own_is_run_and_not_recognised(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[rl.rollout]\nkind = "beam"\ngroup_size = 6\n[rl.signal]\nkind = "sign"\nnegative_weight = 0\n')
    assert step_load(str(path)).active == 1  # misses have no weight, and are filtered


def test_a_group_that_can_not_be_is_told() -> None:
    with pytest.raises(ConfigError, match="group_size"):
        step_load("recast", group=1)
    with pytest.raises(ConfigError, match="prompts_per_step"):
        step_load("recast", prompts=0)
