from __future__ import annotations

import json
import tomllib
from pathlib import Path

from click.testing import CliRunner

from recrl.commands.config import config
from recrl.config import RunConfig, check
from recrl.config_help import FAMILIES, example, section_keys


def run(*arguments: str) -> str:
    shown = CliRunner().invoke(config, list(arguments), catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    return shown.output


def test_show_prints_the_whole_config_as_a_run_sees_it(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text("[sft]\nlr = 0.5\n")
    shown = run("show", str(path), "--set", "sft.epochs=3", "--recipe", "openonerec_rl")
    again = check(tomllib.loads(shown), "shown")
    assert (again.sft.lr, again.sft.epochs, again.rl.rollout.given) == (0.5, 3, {"group_size": 32})
    as_json = json.loads(run("show", str(path), "--json"))
    assert as_json["sft"]["lr"] == 0.5
    assert set(as_json) == set(RunConfig.model_fields)


def test_example_prints_what_loads(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text(run("example"))
    assert path.read_text() == example()
    assert 'name = "example"' in run("show", str(path))


def test_schema_is_a_table_of_every_key_and_every_kind():
    shown = run("schema")
    rows = {line.split("|")[1].strip() for line in shown.splitlines() if line.startswith("|")}
    assert {key.key for key in section_keys()} <= rows
    assert '\nrl.rollout: kind = "sample"\n' in shown
    assert all(f"\n{family}: kind" in shown for family in FAMILIES)
    widths = {line.count(" | ") for line in shown.splitlines() if line.startswith("| ")}
    assert widths == {4}


def test_schema_for_machines_is_json():
    assert set(json.loads(run("schema", "--json"))) == {"config", "parts"}
