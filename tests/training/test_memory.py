"""A memory through the stages of a run: training, resume, evaluation, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import metrics, run_config, silent, write_world
from safetensors.torch import load_file

from recrl.config import MemorySection
from recrl.errors import ConfigError, UserError
from recrl.evaluation import evaluate as evaluation
from recrl.evaluation.evaluate import evaluate
from recrl.evaluation.results import EvaluationResult
from recrl.evaluation.subjects import subjects
from recrl.memory.store import FILE
from recrl.run_data import load_run_data
from recrl.store import checkpoint
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl, train_rl
from recrl.training.sft import train_sft
from recrl.training.tuning import tune_memory

MEMORY = {"weight": 2.0, "hidden_size": 8, "size": 20}
LAST = {"targets": "last", "lr": 1e-3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with a finished SFT, of a model that knows nothing of a memory."""
    folder = write_world(tmp_path_factory.mktemp("memory"))
    train_sft(run_config(folder, folder / "runs"), silent)
    return folder


def config_of(world: Path, runs: Path, memory: dict[str, Any] = MEMORY, **sections: Any) -> Any:
    rl = {"init": str(checkpoint.best(world / "runs" / "tiny" / "sft").model)} | LAST | sections.pop("rl", {})
    return run_config(world, runs, memory=memory, rl=rl, **sections)


def rl_of(world: Path, runs: Path, **sections: Any) -> Rl:
    config = config_of(world, runs, **sections)
    return Rl(config, StageFolder(config.folder / "rl"))


def test_rl_trains_the_memory_and_its_folder_keeps_what_was_learned(trained: Path, tmp_path: Path) -> None:
    config = config_of(trained, tmp_path)
    train_rl(config, silent)
    saved = checkpoint.read(tmp_path / "tiny" / "rl" / "checkpoints" / "step-000004")
    learned = load_file(saved.model / FILE)
    assert learned["learned.2.weight"].abs().max() > 1e-4  # it began at 0
    _, policy = load_run_data(config, saved.model)
    assert torch.equal(policy.memory.learned[2].weight, learned["learned.2.weight"])


def test_a_run_that_is_cut_short_goes_on_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    whole = config_of(trained, tmp_path / "whole")
    train_rl(whole, silent)
    part = config_of(trained, tmp_path / "part")
    train_rl(part, silent)
    stage = part.folder / "rl"
    shutil.rmtree(stage / "checkpoints" / "step-000004")
    (stage / "status.json").unlink()
    train_rl(part, silent, resume=True)
    assert metrics(stage) == metrics(whole.folder / "rl")
    ours, theirs = (load_file(checkpoint.newest(each).model / FILE) for each in _places(part, whole))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def _places(*configs: Any) -> list[Path]:
    return [config.folder / "rl" / "checkpoints" for config in configs]


def test_prompts_recall_without_their_own_sequences(trained: Path, tmp_path: Path) -> None:
    rl = rl_of(trained, tmp_path)
    prompts = rl.environment.prompts(0)
    train = rl.world.dataset.train
    memory = rl.world.writer.memory
    for row in range(len(prompts)):
        sequence = int(prompts.sequence[row])
        items = train.items[sequence]
        assert prompts.targets.items[row, 0] == items[-1]
        own = train.select(np.array([sequence]))
        history = own.items.cut(np.array([0]), np.array([len(items) - 1]))
        expected = memory.recall(history, own)
        assert prompts.recalled.items[row].tolist() == expected.items[0].tolist()
        assert prompts.recalled.share[row].tolist() == pytest.approx(expected.share[0].tolist(), abs=1e-5)


def test_the_end_of_the_training_sequences_is_asked_without_a_label(trained: Path, tmp_path: Path) -> None:
    reward = [{"kind": "collaborative", "scorer": {"kind": "hybrid_knn"}}]
    rl = rl_of(trained, tmp_path, rl={"targets": "frontier", "rewards": reward})
    prompts = rl.environment.prompts(0)
    assert (prompts.targets.items < 0).all()
    train = rl.world.dataset.train
    for row, sequence in enumerate(prompts.sequence.tolist()):
        history = prompts.history[row]
        assert history[history >= 0].tolist() == train.items[sequence][-6:].tolist()
    values = rl.step()
    assert values["signal/trainable_ratio"] > 0
    with pytest.raises(ConfigError, match="frontier"):
        rl_of(trained, tmp_path, rl={"targets": "frontier"})  # hits need a target


def test_evaluation_ranks_with_the_memory(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    strong = {"weight": 8.0, "floor": 1e-6, "size": 60}
    config = run_config(trained, tmp_path / "runs", memory=strong)
    (config.folder / "sft" / "config.toml").write_text(config.to_toml())
    results = {result.name: result for result in evaluate([config.folder], "test", silent_words)[0]}
    value = {name: result.metrics["ndcg@10"].value for name, result in results.items()}
    assert value["sft"] == pytest.approx(value["hybrid_knn"], abs=0.03)
    assert value["sft"] > value["sft-alone"]


def test_what_bears_the_plain_name_is_written_last_and_nothing_older_stays(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []
    save = evaluation.save_result

    def recorded(result: EvaluationResult, *given: Any, **more: Any) -> Path:
        saved.append(result.name)
        return save(result, *given, **more)

    monkeypatch.setattr(evaluation, "save_result", recorded)
    config = run_config(trained, trained / "runs", memory={"weight": 8.0}, eval={"exclude_history": True})
    subject = subjects(config.folder / "sft")[0]
    found = evaluation.Evaluation.make(config, "test", tmp_path).model(replace(subject, config=config))
    assert [one.name for one in found] == ["sft", "sft-new", "sft-alone", "sft-alone-new"]
    assert saved == ["sft-alone-new", "sft-alone", "sft-new", "sft"]
    evaluation.Evaluation.make(subject.config, "test", tmp_path).model(subject)  # neither a memory nor new items
    assert {path.name for path in tmp_path.iterdir()} == {"sft-test.json", "sft-test.safetensors"}


def test_a_model_that_is_replaced_takes_its_results_along(trained: Path, tmp_path: Path) -> None:
    config = run_config(trained, tmp_path / "runs", sft={"epochs": 1})
    train_sft(config, silent)
    evaluate([config.folder], "test", silent_words)
    train_sft(config, silent, overwrite=True)
    left = {path.name.split("-")[0] for path in (config.folder / "evaluation").iterdir()}
    assert left == {"popularity", "item_knn", "hybrid_knn", "optimum"}


def test_tuning_measures_what_rl_would_start_from_and_keeps_it(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    config = config_of(trained, tmp_path, {"weight": 0.0})
    config = config.model_copy(update={"memory": MemorySection(size=60)})
    found = tune_memory(config, [0.0, 8.0], [1e-4, 1e-6], silent_words)
    assert [(one.weight, one.floor) for one in found] == [(0, 1e-4), (8, 1e-4), (8, 1e-6)]  # 0 has no floor
    strong = config.model_copy(update={"memory": MemorySection(weight=8.0, floor=1e-6, size=60)})
    rl = Rl(strong, StageFolder(tmp_path / "stage"))
    assert found[2].ndcg_at_10 == pytest.approx(rl.validation.score(rl.policy)["valid/ndcg@10"], abs=1e-9)
    kept = json.loads((config.folder / "memory_tuning.json").read_text())
    assert kept["best"]["ndcg_at_10"] == max(one.ndcg_at_10 for one in found)
    assert len(kept["tried"]) == 3


def test_tuning_without_a_weight_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weight 0 says nothing"):
        tune_memory(config_of(trained, tmp_path), [0.0], [1e-4], silent_words)


def silent_words(text: str) -> None:
    """Nobody reads it."""


@pytest.mark.parametrize(
    ("memory", "sections", "words"),
    [
        (MEMORY, {"backend": {"engine": "fsdp2"}}, "engine = 'torch'"),
    ],
)
def test_settings_that_can_not_be_are_refused(
    trained: Path, tmp_path: Path, memory: dict[str, Any], sections: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        config_of(trained, tmp_path, memory, **sections)


def test_a_scorer_that_is_not_sparse_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hybrid_knn"):
        rl_of(trained, tmp_path, memory=MEMORY | {"scorer": {"kind": "popularity"}})


def test_a_memory_of_another_width_is_refused(trained: Path, tmp_path: Path) -> None:
    config = config_of(trained, tmp_path)
    train_rl(config, silent)
    model = checkpoint.best(config.folder / "rl").model
    other = config_of(trained, tmp_path, MEMORY | {"hidden_size": 4})
    with pytest.raises(UserError, match="does not fit"):
        load_run_data(other, model)
