"""What a recipe sets, against its base and against the defaults."""

from __future__ import annotations

from pathlib import Path

from recrl.recipe import read
from recrl.recipe_settings import own_settings

PARTS = """
[rl.rollout]
kind = "sample"
group_size = 16
{rollout}
[rl.signal]
kind = "recast"
[rl.objective]
kind = "gspo"
"""


def settings_of(folder: Path, text: str) -> dict[str, object]:
    path = folder / "mine.toml"
    path.write_text(text)
    return own_settings(read(str(path)))


def test_defaults_and_kinds_go_without_saying(tmp_path: Path) -> None:
    text = "[rl]\nmini_batches = 2\nepochs = 1\n" + PARTS.format(rollout="top_k = 4")
    assert settings_of(tmp_path, text) == {"rl.mini_batches": 2, "rl.rollout.top_k": 4}


def test_a_variant_sets_what_its_base_does_not(tmp_path: Path) -> None:
    text = 'base = "recast"\n[rl]\nmini_batches = 4\n[rl.objective]\nclip_high = 0.2\n'
    assert settings_of(tmp_path, text) == {"rl.objective.clip_high": 0.2}


def test_another_kind_loses_the_options_of_the_old_one(tmp_path: Path) -> None:
    """recast's rollout has groups of 32, a beam by itself groups of 16."""
    text = 'base = "recast"\n[rl.rollout]\nkind = "sample"\n'
    assert settings_of(tmp_path, text) == {"rl.rollout.kind": "sample", "rl.rollout.group_size": 16}


def test_tasks_are_one_value_without_those_of_weight_0() -> None:
    assert own_settings(read("singer_no_align")) == {"sft.tasks": {"next": 1.0}, "rl.tasks": {"next": 1.0}}


def test_rewards_are_one_value_without_defaults() -> None:
    assert own_settings(read("singer_sid_all")) == {"rl.rewards": [{"kind": "singer", "easy": "rank+sid"}]}
    assert "rl.rewards" not in own_settings(read("gdpo"))
