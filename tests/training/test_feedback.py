"""RL's best slates as rows of a later SFT: which they are, what lies on disk, and resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from groups_of import groups_of
from runs import run_config, silent

from recrl.data.dataset import Dataset, Examples
from recrl.errors import DataError, RunError, UserError
from recrl.groups.rollout import Signal
from recrl.run_data import load_data
from recrl.store import checkpoint
from recrl.store.run_folder import StageFolder
from recrl.training.feedback import best_responses, load, record, take_back
from recrl.training.rl import Rl, train_rl
from recrl.training.sft import Sft

SLATES = [[[1, 2], [3, 4], [5, 6], [7, 8]], [[2, 1], [4, 3], [6, 5], [8, 7]], [[1, 3], [5, 7], [2, 4], [6, 8]]]
ROWS = [{"history": [4, 9], "items": [1, 2, 3]}, {"history": [5], "items": [6]}]
RL = {
    "steps": 4,
    "prompts_per_step": 16,
    "checkpoint_every": 1,
    "patience": 0,
    "feedback_share": 0.1,
    "tasks": {"slate": 1.0},
    "rollout": {"kind": "sample", "group_size": 6, "slate_size": 2},
    "rewards": [{"kind": "slate_ndcg"}],
}


def signal_of(advantage: list[list[float]], repaired: tuple[bool, ...] = (False, False, False)) -> Signal:
    groups = groups_of(SLATES, history=[[9, 10], [11, -1], [-1, -1]])  # nobody took anything before the third prompt
    worth = torch.tensor(advantage)
    return Signal(groups, worth, torch.ones_like(worth, dtype=torch.bool), torch.tensor(repaired))


@pytest.fixture
def dataset(world: Path, tmp_path: Path) -> Dataset:
    return load_data(run_config(world, tmp_path))[0]


def test_the_best_share_of_the_step_is_kept_best_first() -> None:
    signal = signal_of([[0.1, 0.4, -1, 0.2], [-0.5, 0.3, -1, -1], [9, 9, 9, 9]])
    assert best_responses(signal, 0.25) == [  # 3 of 12
        {"history": [9, 10], "items": [3, 4]},
        {"history": [11], "items": [4, 3]},
        {"history": [9, 10], "items": [7, 8]},
    ]
    assert best_responses(signal, 0.01) == [{"history": [9, 10], "items": [3, 4]}]


def test_nothing_below_the_others_of_its_prompt_is_kept() -> None:
    kept = best_responses(signal_of([[0, 0, 0, 0], [-1, 1, -1, 1], [9, 9, 9, 9]]), 1.0)
    assert kept == [{"history": [11], "items": [4, 3]}, {"history": [11], "items": [8, 7]}]


def test_what_was_given_by_a_repair_is_not_the_models_own() -> None:
    worth = [[3.0, -1, -1, -1], [1.0, -1, -1, -1], [9, 9, 9, 9]]
    assert best_responses(signal_of(worth, (True, False, False)), 1.0) == [{"history": [11], "items": [2, 1]}]


def test_a_response_that_does_not_exist_is_not_kept() -> None:
    signal = signal_of([[5.0, 1, -1, -1], [-1, -1, -1, -1], [9, 9, 9, 9]])
    exists = signal.groups.exists.clone()
    exists[0, 0] = False
    signal = replace(signal, groups=replace(signal.groups, exists=exists))
    assert best_responses(signal, 1.0) == [{"history": [9, 10], "items": [3, 4]}]


def test_a_step_done_again_replaces_its_file(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "feedback"
    record(folder, 3, ROWS, dataset)
    record(folder, 3, ROWS[1:], dataset)
    record(folder, 12, ROWS[:1], dataset)
    found = load(folder, dataset, 2)
    assert [row.tolist() for row in found.history] == [[5], [4, 9]]
    assert [row.tolist() for row in found.targets] == [[6], [1, 2]]  # cut to the slates that SFT teaches
    assert found.tasks == ["slate", "slate"]
    assert load(folder, dataset, 1).tasks == ["next", "next"]
    take_back(folder, 3)
    assert [path.name for path in folder.iterdir()] == ["step-000003.json"]


def test_errors_name_the_folder_and_the_way_out(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rows") as none:
        load(tmp_path / "nowhere", dataset, 2)
    assert "rl.feedback_share" in str(none.value)
    record(tmp_path / "other", 1, ROWS, replace(dataset, meta={"fingerprint": "another"}))
    with pytest.raises(UserError, match="another data set"):
        load(tmp_path / "other", dataset, 2)
    (tmp_path / "other" / "step-000001.json").write_text('{"dataset": "cut sh')
    with pytest.raises(DataError, match=r"step-000001\.json"):
        load(tmp_path / "other", dataset, 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="--resume"):
        record(tmp_path / "file", 1, ROWS, dataset)


def kept(stage: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((stage / "feedback").iterdir())}


def test_a_resumed_run_leaves_the_same_rows_and_sft_learns_them(world: Path, trained: Path, tmp_path: Path) -> None:
    def config(name: str, **sections: Any) -> Any:
        rl = RL | {"init": str(trained)}
        return run_config(world, tmp_path / name, prompts={"slate_size": 2}, rl=rl, **sections)

    whole, cut = config("whole"), config("cut")
    train_rl(whole, silent)
    files = kept(whole.folder / "rl")
    assert set(files) == {f"step-{step:06d}.json" for step in range(1, 5)}

    stage = StageFolder(cut.folder / "rl")
    killed = Rl(cut, stage)
    stage.start(cut, "cpu", "float32", overwrite=False)
    killed.validate()
    killed.save()
    killed.step()  # and nothing says that this step is done
    record(stage.path / "feedback", 9, ROWS, killed.world.dataset)
    train_rl(cut, silent, resume=True)
    assert kept(stage.path) == files

    sft = {"tasks": {"next": 0.0, "slate": 1.0}, "feedback": str(stage.path / "feedback"), "epochs": 1}
    learned = config("again", sft=sft)
    run = Sft(learned, StageFolder(learned.folder / "sft"))
    fed_back = run.rows.fed_back
    rows, without = run.rows.epoch(0), replace(run.rows, fed_back=Examples.empty()).epoch(0)
    added = rows.select(np.arange(len(without), len(rows)))
    assert len(added) == len(fed_back) == sum(len(json.loads(text)["rows"]) for text in files.values()) > 0
    end = run.rows.writer.tokenizer.eos_token_id
    for row, items in enumerate(fed_back.targets):
        names = [int(token) for item in items for token in run.rows.responses[int(item)]]
        assert added.ids[row][added.first_scored[row] :].tolist() == [*names, end]
    losses = [run.train_step(added, 0.003)["sft/loss"] for _ in range(5)]
    assert losses[-1] < losses[0]


def test_off_by_default(world: Path, trained: Path, tmp_path: Path) -> None:
    config = run_config(world, tmp_path, rl={"init": str(trained), "steps": 1})
    train_rl(config, silent)
    assert not (config.folder / "rl" / "feedback").exists()
    assert checkpoint.newest(config.folder / "rl" / "checkpoints") is not None
