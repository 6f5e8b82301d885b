"""Recipes: how they lie on each other, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from recrl import recipe as recipes
from recrl.config import load
from recrl.errors import ConfigError


def written(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return str(path)


def test_a_variant_lies_on_the_recipe_that_it_varies(tmp_path: Path) -> None:
    name = written(tmp_path, "mine", 'about = "a"\nbase = "recast"\n[rl.signal]\nrepair = "never"\n')
    mine, base = recipes.read(name), recipes.read("recast")
    assert mine.base == "recast"
    assert mine.values["rl"]["signal"] == {"kind": "recast", "repair": "never"}
    assert mine.values["rl"]["rollout"] == base.values["rl"]["rollout"]
    assert recipes.difference(base, mine) == [("rl.signal.repair", None, "never")]


def test_a_part_of_another_kind_takes_no_options_of_the_old_one(tmp_path: Path) -> None:
    name = written(tmp_path, "mine", 'base = "recast"\n[rl.objective]\nkind = "gspo"\n')
    assert recipes.read(name).values["rl"]["objective"] == {"kind": "gspo"}


def test_recipes_that_vary_each_other_are_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text(f'base = "{second}"\n')
    second.write_text(f'base = "{first}"\n')
    with pytest.raises(ConfigError) as caught:
        recipes.read(str(first))
    assert "circle" in str(caught.value)


def test_an_unknown_base_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        recipes.read(written(tmp_path, "mine", 'base = "recats"\n'))
    assert "did you mean 'recast'" in str(caught.value)


def test_words_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        recipes.read(written(tmp_path, "mine", "about = 3\n"))
    assert "about = 3" in str(caught.value)


def test_the_users_keys_win_over_the_recipe(tmp_path: Path) -> None:
    run = tmp_path / "run.toml"
    run.write_text('[rl]\nrecipe = "recast_boundary_only"\n[rl.rollout]\ngroup_size = 4\n')
    rl = load(run).rl
    assert rl.rollout.kind == "beam"
    assert rl.rollout.given == {"group_size": 4}
    assert rl.signal.given == {"repair": "never"}
