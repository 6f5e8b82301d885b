"""What paths name, under which names, and what can't stand side by side."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from runs import run_config, silent, write_world

from recrl.errors import UserError
from recrl.evaluation.evaluate import Evaluation, evaluate
from recrl.evaluation.results import load_result
from recrl.evaluation.subjects import folder_of, run_folder, side_by_side, subjects
from recrl.report.collect import collect
from recrl.report.page import verdict
from recrl.training.rl import train_rl
from recrl.training.sft import train_sft
from recrl.training.tuning import tune_memory

FEW = {"k": [1, 10], "beam_width": 20, "bootstrap": 0}
MEMORY = {"weight": 8.0, "floor": 1e-6, "size": 60}


def silent_words(_: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SFT without a memory and RL from it beside one, below ``runs/tiny``."""
    folder = write_world(tmp_path_factory.mktemp("subjects"))
    train_sft(run_config(folder, folder / "runs", eval=FEW), silent)
    train_rl(run_config(folder, folder / "runs", eval=FEW, memory=MEMORY), silent)
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """The run's folder under another name and elsewhere."""
    shutil.copytree(trained / "runs" / "tiny", tmp_path / "a copy")
    return tmp_path / "a copy"


def test_results_of_a_copied_run_are_kept_in_the_copy(trained: Path, copied: Path) -> None:
    before = sorted((trained / "runs" / "tiny").rglob("*"))
    _, folder = evaluate([copied / "sft"], "test", silent_words)
    assert folder == copied / "evaluation"
    assert (folder / "sft-test.json").is_file()
    assert sorted((trained / "runs" / "tiny").rglob("*")) == before


def test_the_folder_of_a_run_is_found_from_whatever_names_it(trained: Path) -> None:
    run = trained / "runs" / "tiny"
    for path in (run, run / "sft", run / "rl", run / "rl" / "latest"):
        assert run_folder(path) == run


def test_equal_names_are_told_apart_by_their_runs_folders(trained: Path, copied: Path) -> None:
    found = side_by_side([trained / "runs" / "tiny" / "rl", copied], ())
    assert [one.name for one in found] == ["rl", "a-copy-sft", "a-copy-rl"]


def test_a_model_that_is_named_twice_counts_once(trained: Path) -> None:
    run = trained / "runs" / "tiny"
    assert [one.name for one in side_by_side([run, run / "rl", run], ())] == ["sft", "rl"]


def test_rows_stand_as_their_models_were_named(trained: Path, copied: Path) -> None:
    results, _ = evaluate([trained / "runs" / "tiny" / "rl", copied], "test", silent_words)
    models = [one.name for one in results if one.kind == "model"]
    assert models == ["rl-alone", "rl", "a-copy-sft-alone", "a-copy-sft", "a-copy-rl-alone", "a-copy-rl"]


def test_what_is_measured_under_other_settings_is_kept_apart(copied: Path) -> None:
    evaluate([copied], "test", silent_words)
    before = {path: path.read_bytes() for path in (copied / "evaluation").glob("*.json")}
    _, folder = evaluate([copied], "test", silent_words, ("memory.weight=2",))
    assert folder == copied / "evaluation" / "memory.weight-2"
    assert load_result(folder / "rl-test.json").memory == 2
    assert {path: path.read_bytes() for path in (copied / "evaluation").glob("*.json")} == before
    assert len(folder_of(("data.path=" + "x" * 500,))) < 200


def test_rl_is_not_credited_with_the_memory(trained: Path, copied: Path) -> None:
    plain = Evaluation.make(run_config(trained, trained / "runs", eval=FEW), "test", copied / "evaluation")
    sft, rl = subjects(copied)
    plain.model(replace(sft, config=run_config(trained, trained / "runs", eval=FEW)))
    plain.model(rl)
    run = collect(copied)
    assert not run.rl_against_sft
    assert "different memories" in verdict(run)[0]
    plain.model(sft)
    assert "different memories" not in verdict(collect(copied))[0]


def test_the_sft_of_a_run_stands_beside_the_memory_that_rl_began_with(trained: Path) -> None:
    run = trained / "runs" / "tiny"
    weights = {one.name: one.config.memory.weight for one in subjects(run)}
    assert weights == {"sft": 8, "rl": 8}
    assert subjects(run / "sft")[0].config.memory.weight == 8
    results = {one.name: one for one in evaluate([run], "valid", silent_words)[0]}
    assert {"sft", "sft-alone", "rl", "rl-alone"} <= results.keys()
    assert results["sft"].memory == 8
    assert results["sft-alone"].memory is None
    plain = evaluate([run / "sft"], "valid", silent_words, ("memory.weight=0",))[0]
    alone = next(one for one in plain if one.name == "sft")
    assert alone.metrics == results["sft-alone"].metrics


def test_models_are_compared_under_one_protocol(trained: Path, copied: Path) -> None:
    text = (copied / "rl" / "config.toml").read_text()
    (copied / "rl" / "config.toml").write_text(text.replace("exclude_history = false", "exclude_history = true"))
    paths = [trained / "runs" / "tiny" / "rl", copied / "rl"]
    with pytest.raises(UserError, match=r"eval\.exclude_history = true") as refused:
        side_by_side(paths, ())
    asked = str(refused.value).split("--set ")[1].split()[0]
    assert {one.config.eval.exclude_history for one in side_by_side(paths, (asked,))} == {False}


def test_weight_0_of_a_tuned_memory_is_the_model_without_one(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    config = run_config(trained, tmp_path / "runs", eval=FEW | {"valid_examples": 0, "valid_beam_width": 20})
    said: list[str] = []
    found = tune_memory(config, [0, 4], [1e-4, 1e-2], said.append)
    assert [(one.weight, one.floor) for one in found] == [(0, 1e-4), (4, 1e-4), (4, 1e-2)]
    _, folder = evaluate([config.folder / "sft"], "valid", silent_words, ("memory.weight=0",))
    plain = load_result(folder / "sft-valid.json")
    assert found[0].ndcg_at_10 == pytest.approx(plain.metrics["ndcg@10"].value, abs=1e-6)
