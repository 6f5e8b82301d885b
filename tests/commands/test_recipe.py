"""``recrl recipe``: what its three commands print."""

from __future__ import annotations

import json
import tomllib

from click.testing import CliRunner

from recrl.commands.recipe import recipe
from recrl.recipe import names, read


def run(*arguments: str) -> str:
    shown = CliRunner().invoke(recipe, list(arguments), catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    return shown.output


def test_list_names_every_recipe_with_its_source() -> None:
    shown = json.loads(run("list", "--json"))
    assert [one["name"] for one in shown] == names()
    assert all(one["source"] and one["about"] for one in shown)
    table = run("list")
    assert all(name in table for name in names())


def test_show_prints_a_toml_file_with_the_values_of_the_base() -> None:
    shown = run("show", "recast_adaptive")
    assert tomllib.loads(shown) == read("recast_adaptive").values
    assert "# Varies: recast" in shown
    assert json.loads(run("show", "recast", "--json"))["values"] == read("recast").values


def test_diff_prints_the_keys_that_differ() -> None:
    assert run("diff", "recast", "recast_adaptive") == "rl.signal.repair  (left to the run) -> linear\n"
    assert run("diff", "recast", "recast") == "The same values.\n"
    shown = json.loads(run("diff", "recast", "recast_adaptive", "--json"))
    assert shown == [{"key": "rl.signal.repair", "recast": None, "recast_adaptive": "linear"}]
