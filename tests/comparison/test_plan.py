from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import tomli_w
from comparisons import asked

from recrl.comparison.plan import make_plan
from recrl.errors import ConfigError, UserError


def test_steps_follow_from_the_budget_and_the_group_size(config: Path):
    plan = make_plan(
        asked(config, recipes=("recast", "onerec_v2"), overrides=("rl.prompts_per_step=8",), responses=1100)
    )
    found = {run.name: (run.group_size, run.rollouts, run.responses, run.optimizer_steps) for run in plan.runs}
    assert found == {
        "recast-seed0": (32, 4, 1024, 16),
        "onerec_v2-seed0": (16, 8, 1024, 32),
        "recast-seed1": (32, 4, 1024, 16),
        "onerec_v2-seed1": (16, 8, 1024, 32),
    }
    assert [run.config.rl.steps for run in plan.runs] == [4, 8, 4, 8]
    assert [run.config.rl.eval_every for run in plan.runs] == [2, 4, 2, 4]


def test_the_recipe_says_what_makes_a_method_and_config_the_rest(config: Path):
    plan = make_plan(asked(config, overrides=("rl.rollout.group_size=4",)))
    recast, dr_grpo = (run.config.rl for run in plan.runs[:2])
    assert (recast.signal.kind, dr_grpo.signal.kind) == ("recast", "group_zscore")
    assert recast.objective.kind == dr_grpo.objective.kind == "grpo"  # CONFIG has gspo
    assert (recast.mini_batches, dr_grpo.mini_batches) == (4, 1)  # CONFIG has 2
    assert (recast.rollout.kind, dr_grpo.rollout.kind) == ("beam", "sample")
    assert recast.rollout.given["group_size"] == dr_grpo.rollout.given["group_size"] == 4  # --set
    assert recast.lr == dr_grpo.lr == 0.007
    assert (recast.patience, recast.max_ndcg_drop) == (0, 1.0)
    assert {"rl.recipe", "rl.mini_batches", "rl.rollout", "rl.objective"} <= set(plan.left_out)
    assert "rl.lr" not in plan.left_out


def test_what_rl_learns_of_a_memory_comes_from_the_recipe_where_config_is_silent(config: Path, tmp_path: Path):
    values = tomllib.loads(config.read_text())
    del values["memory"]
    silent = tmp_path / "silent.toml"
    silent.write_text(tomli_w.dumps(values))

    def width(file: Path, *overrides: str) -> int:
        plan = make_plan(asked(file, recipes=("recrl",), seeds=1, responses=800, overrides=overrides))
        assert plan.base.memory.hidden_size in (0, 8)
        return plan.runs[0].config.memory.hidden_size

    assert width(silent) == 32
    assert width(silent, "memory.hidden_size=8") == 8
    assert width(config) == 0  # which says so


def test_a_kind_alone_is_the_kind_of_a_table(config: Path, tmp_path: Path):
    recipe = tmp_path / "short.toml"
    recipe.write_text('[memory]\nscorer = "hybrid_knn"\n')
    assert make_plan(asked(config, recipes=(str(recipe),), seeds=1)).recipes == ["short"]
    recipe.write_text('[memory]\nscorer = "item_knn"\n')
    with pytest.raises(ConfigError, match=r"memory\.scorer\.kind = 'item_knn'(.|\n)*set it in CONFIG, or leave"):
        make_plan(asked(config, recipes=(str(recipe),), seeds=1))


def test_runs_differ_in_the_seed_of_rl_alone(config: Path):
    first, other = (run.config for run in make_plan(asked(config, recipes=("recast",))).runs)
    assert (first.rl_seed, other.rl_seed) == (0, 1)
    assert first.run.seed == other.run.seed
    assert first.rl == other.rl.model_copy(update={"seed": 0})
    assert first == other.model_copy(update={"run": first.run, "rl": first.rl})


def test_only_dynamic_sampling_has_a_limit_of_rollouts(config: Path):
    plan = make_plan(asked(config, recipes=("dapo", "recast"), seeds=1))
    assert [run.config.rl.max_rollouts for run in plan.runs] == [4, None]


def test_the_start_is_the_best_sft_or_what_init_names(config: Path):
    plan = make_plan(asked(config))
    assert plan.start.parents[2].name == "sft"
    assert {run.config.rl.init for run in plan.runs} == {plan.start}
    earlier = min(plan.start.parent.parent.glob("step-*")) / "model"
    assert make_plan(asked(config, init=earlier)).start == earlier


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"responses": 31}, "one rollout of recast takes 8 prompts x 4 responses"),
        ({"overrides": ("rl.steps=3",)}, "use --responses"),
        ({"overrides": ("rl.seed=3",)}, "use --seeds"),
        ({"overrides": ("eval.k=[1, 5]",)}, "lists of 10 are compared"),
        ({"overrides": ("rl.start=base",)}, "one trained start"),
        ({"recipes": ("recast", "recast")}, "names 'recast' twice"),
        ({"recipes": ("recats",)}, "did you mean 'recast'"),
        ({"recipes": ("onerec_sage",)}, "recipe onerec_sage needs prompts.slate_size = 6"),
        ({"recipes": ("onerec_sage",), "overrides": ("prompts.slate_size=6",)}, "onerec_sage asks for slates"),
    ],
)
def test_what_can_not_be_compared_is_refused(config: Path, changes: dict, says: str):
    with pytest.raises(ConfigError) as found:
        make_plan(asked(config, **changes))
    assert says in str(found.value)
    assert not (config.parent / "runs/tiny/methods").exists()


def test_a_start_that_is_not_there_is_refused(config: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no model at"):
        make_plan(asked(config, init=tmp_path))
    untrained = tmp_path / "run.toml"
    untrained.write_text(config.read_text().replace('name = "tiny"', 'name = "untrained"'))
    with pytest.raises(UserError, match="no checkpoint below"):
        make_plan(asked(untrained))
