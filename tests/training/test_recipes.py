"""Every recipe for five steps on the log of a made-up shop, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from recrl import recipe as recipes
from recrl.commands.main import recrl
from recrl.config import load
from recrl.data import dataset as datasets
from recrl.data.prepare import prepare
from recrl.models.checkpoint import save_folder
from recrl.run_data import load_data, new_model
from recrl.sids import codes as sid_codes
from recrl.sids.codes import with_suffixes

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
RUN = """
[run]
dir = "runs"
threads = 1
[data]
path = "data"
history_limit = 8
[sid]
path = "sids"
levels = 3
codebook_size = 16
[model]
preset = "tiny"
text_vocab_size = 800
shape = {hidden_size = 32, intermediate_size = 64, num_hidden_layers = 1, num_attention_heads = 2}
[rl]
init = "model"
steps = 5
prompts_per_step = 6
eval_every = 5
max_ndcg_drop = 1.0
[rl.rollout]
group_size = 4
[eval]
k = [10]
beam_width = 20
valid_beam_width = 10
valid_examples = 12
"""


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, random SIDs and an untrained model; nobody writes to its parts."""
    folder = tmp_path_factory.mktemp("mini")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare("amazon", SHOP, folder / "data")
        dataset = datasets.load(folder / "data")
        random = np.random.default_rng(0).integers(0, 16, (len(dataset.catalog), 3)).astype(np.int32)
        Path("sids").mkdir()
        sid_codes.save(with_suffixes(random, (16, 16, 16), {"dataset": dataset.meta["fingerprint"]}), folder / "sids")
        Path("run.toml").write_text(RUN)
        config = load(Path("run.toml"), ("model.sid_init=random",))
        save_folder(*new_model(config, *load_data(config)), folder / "model")
    return folder


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_runs_for_five_steps(mini: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mini)
    arguments = ["rl", "run.toml", "--recipe", name, "--json", "--set", f"run.name={name}"]
    if recipes.read(name).values["rl"].get("start") == "base":
        Path("base.toml").write_text(RUN.replace('init = "model"\n', ""))
        arguments[1] = "base.toml"
        arguments += ["--set", "model.sid_init=random"]
    shown = CliRunner().invoke(recrl, arguments, catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    lines = [json.loads(line) for line in Path("runs", name, "rl", "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "rollout/responses" in line]
    assert len(steps) == 5
    assert all(line["rollout/valid_ratio"] == 1 for line in steps)
    assert json.loads(shown.stdout)["state"] in {"finished", "stopped_early"}
