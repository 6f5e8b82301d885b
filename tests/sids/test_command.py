from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from recrl.commands.sid import sid
from recrl.data import dataset as datasets
from recrl.errors import ConfigError, UserError
from recrl.sids.codes import load


@pytest.fixture
def config(dataset, tmp_path):
    (tmp_path / "data").mkdir()
    datasets.save(dataset, tmp_path / "data")
    path = tmp_path / "run.toml"
    path.write_text(
        f'[data]\npath = "{tmp_path}/data"\n[sid]\npath = "{tmp_path}/sids"\ncodebook_size = 4\n'
        '[sid.encoder]\nkind = "tfidf-svd"\ntitle_dim = 12\n'
    )
    return path


def run(*arguments: object):
    return CliRunner().invoke(sid, [str(argument) for argument in arguments], catch_exceptions=False)


def test_build_prints_the_figures_of_every_level(config):
    result = run("build", config)
    assert result.exit_code == 0
    for words in (
        "level 3",
        "4 of 4 codes used",
        "perplexity",
        "collision rate",
        "largest cluster",
        "reconstruction error",
    ):
        assert words in result.output


def test_build_as_json_and_with_overrides(config, tmp_path):
    result = run("build", config, "--set", "sid.levels=2", "--set", "run.seed=7", "--json")
    meta = json.loads(result.output)
    assert (meta["seed"], len(meta["statistics"]["levels"])) == (7, 2)
    assert load(tmp_path / "sids").levels == 2


def test_assign_reads_the_index_of_a_config_or_a_folder(config, tmp_path):
    run("build", config)
    (tmp_path / "new.jsonl").write_text('{"item_id": "n1", "title": "castle red"}\n')
    by_config = run("assign", config, tmp_path / "new.jsonl", "--out", tmp_path / "a", "--json")
    by_folder = run("assign", tmp_path / "sids", tmp_path / "new.jsonl", "--out", tmp_path / "b", "--json")
    assert json.loads(by_config.output)["assigned"] == json.loads(by_folder.output)["assigned"]
    assert len(load(tmp_path / "b")) == 61


def test_wrong_options_and_places_are_refused_and_leave_nothing(config, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'title_dim'"):
        run("build", config, "--set", "sid.encoder.title_dims=3")
    with pytest.raises(UserError, match="no prepared data set"):
        run("build", config, "--set", f"data.path={tmp_path}/elsewhere")
    assert not (tmp_path / "sids").exists()
