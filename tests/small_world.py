"""A prepared, trained world in a folder: what commands work on, small enough to be copied for every test.

data/  sids/       60 users, 40 items of the embedded marketplace
other/             another data set; other-sids/ its SIDs
untrained/         a data set that came without a train split; untrained-sids/ its SIDs
decoder/           a Hugging Face folder whose tokenizer knows no SID
raw/               sequences.txt and items.jsonl
run.toml           names data/, sids/ and runs/small
runs/small/sft     one epoch of a tiny model
"""

from __future__ import annotations

import json
from pathlib import Path

from worlds import tiny_model

from recrl.config import load
from recrl.data.dataset import Dataset, Examples, Sequences
from recrl.data.dataset import load as load_dataset
from recrl.data.dataset import save as save_dataset
from recrl.data.prepare import prepare
from recrl.data.ragged import Ragged
from recrl.models.presets import preset_tokenizer
from recrl.sids.build import SidPlan, build_folder
from recrl.training.sft import train_sft

ITEMS = 40
MARKET = {"users": 60, "items": ITEMS, "interactions": 600, "categories": 4, "groups": 2}
RUN_TOML = """
[run]
name = "small"
dir = "runs"
threads = 1
[data]
path = "data"
[sid]
path = "sids"
codebook_size = 4
[sid.encoder]
kind = "tfidf-svd"
[sid.quantizer]
kind = "rq-kmeans"
[model]
%s
[sft]
epochs = 1
batch_size = 32
[rl]
steps = 1
prompts_per_step = 8
[rl.rollout]
kind = "beam"
group_size = 4
[eval]
k = [1, 5, 10]
beam_width = 20
valid_beam_width = 10
bootstrap = 20
"""
MODEL = """preset = "tiny"
shape = {hidden_size = 32, num_hidden_layers = 1}"""


def build_small_world(folder: Path) -> None:
    """Fill ``folder``; the current folder must be it, since the paths of its config are relative."""
    Path("run.toml").write_text(RUN_TOML % MODEL)
    prepare("synthetic", None, folder / "data", options=MARKET)
    prepare("synthetic", None, folder / "other", options=MARKET | {"seed": 1})
    _without_training(folder / "data", folder / "untrained")
    config = load(Path("run.toml"))
    plan = SidPlan(config.sid.encoder, config.sid.quantizer, config.sid.levels, config.sid.codebook_size)
    for name, sids in (("data", "sids"), ("other", "other-sids"), ("untrained", "untrained-sids")):
        build_folder(load_dataset(folder / name), plan, 0, folder / sids)
    _decoder(folder / "decoder")
    _raw(folder / "raw")
    train_sft(config, lambda *_: None)


def _without_training(source: Path, target: Path) -> None:
    """What a source with valid and test files alone gives."""
    whole = load_dataset(source)
    none = Ragged.from_lists([])
    empty = Sequences(whole.train.users[:0], none, whole.train.first_target[:0])
    target.mkdir()
    rest = Dataset(whole.catalog, whole.user_ids, empty, Examples.empty(), whole.valid, whole.test, whole.meta)
    save_dataset(rest, target)


def _decoder(folder: Path) -> None:
    tokenizer = preset_tokenizer(["a decoder that knows words and no items"], 300)
    tiny_model("qwen3", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _raw(folder: Path) -> None:
    folder.mkdir()
    items = [{"id": number, "title": f"Item {number}", "l2": "Toys"} for number in range(1, 7)]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "sequences.txt").write_text("".join(f"{user} 1 2 3 4 5 6\n" for user in range(1, 5)))
