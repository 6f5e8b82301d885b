"""Targets held out of SFT: who is drawn, that SFT shows none of them, and that RL asks for exactly those."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import run_config, silent

from recrl.baselines.item_knn import ITEM_KNN
from recrl.data.dataset import Dataset, Sequences
from recrl.data.examples import next_examples, windows
from recrl.data.held_out import held_out_rows, only_held_out, record, without_held_out
from recrl.data.ragged import Ragged
from recrl.errors import UserError
from recrl.run_data import load_data
from recrl.store import checkpoint
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl
from recrl.training.sft import Sft, train_sft

SHARE = 0.4
SEED = 3


def sequences(rows: list[list[int]], users: list[int] | None = None, first: list[int] | None = None) -> Sequences:
    owners = np.array(users or range(len(rows)), np.int32)
    return Sequences(owners, Ragged.from_lists(rows), np.array(first or [1] * len(rows), np.int32))


def dataset(train: Sequences, world: Dataset) -> Dataset:
    return replace(world, train=train)


@pytest.fixture
def whole(world: Path, tmp_path: Path) -> Dataset:
    return load_data(run_config(world, tmp_path))[0]


def test_the_drawn_sequences_end_before_their_last_target_and_all_others_stay(whole: Dataset) -> None:
    rows = held_out_rows(whole.train, SHARE, SEED)
    usable = int((whole.train.items.lengths > 1).sum())
    assert len(rows) == round(SHARE * usable) > 20
    shown = without_held_out(whole, SHARE, SEED).train
    for row, items in enumerate(whole.train.items):
        assert shown.items[row].tolist() == (items[:-1] if row in rows else items).tolist()
    assert shown.first_target.tolist() == whole.train.first_target.tolist()


def test_the_draw_follows_the_seed(whole: Dataset) -> None:
    first, again, other = (held_out_rows(whole.train, SHARE, seed).tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_a_share_of_0_leaves_every_sequence_as_it_was(whole: Dataset) -> None:
    shown = without_held_out(whole, 0.0, SEED).train
    assert np.array_equal(shown.items.values, whole.train.items.values)
    assert np.array_equal(shown.items.offsets, whole.train.items.offsets)


def test_a_sequence_without_a_target_is_never_drawn() -> None:
    train = sequences([[1], [2, 3], [4], [5, 6, 7]])
    assert held_out_rows(train, 0.99, 0).tolist() == [1, 3]


def test_of_sliding_samples_the_latest_loses_its_target_and_no_other_one_shows_it(whole: Dataset) -> None:
    """Users take 10 u, 10 u + 1, ..., one sample a target, with a history of three at most."""
    samples = [
        (user, list(range(10 * user + max(0, at - 3), 10 * user + at + 1)))
        for user in range(5)
        for at in (1, 2, 3, 4, 5)
    ]
    train = sequences(
        [items for _, items in samples], [user for user, _ in samples], [len(items) - 1 for _, items in samples]
    )
    rows = held_out_rows(train, SHARE, SEED)
    assert [row % 5 for row in rows.tolist()] == [4, 4]
    held = {int(train.items[row][-1]) for row in rows}
    assert held == {10 * train.users[row] + 5 for row in rows}
    shown = without_held_out(dataset(train, whole), SHARE, SEED).train
    assert held.isdisjoint(shown.items.values.tolist())
    cut = windows(shown, 20)
    assert len(cut) == len(next_examples(shown, "next", None)) == 5 * 5 - 2


@pytest.fixture
def sft(world: Path, tmp_path: Path) -> Sft:
    options = {"held_out": SHARE, "teacher": {"weight": 1.0, "prompts": 8, "responses": 3}}
    prompts = {"template": "instruct", "pool": 20}
    model = {"text_vocab_size": 400}
    config = run_config(world, tmp_path, run={"seed": SEED}, sft=options, prompts=prompts, model=model)
    return Sft(config, StageFolder(tmp_path / "sft"))


def test_rows_teacher_and_retriever_know_the_shown_sequences_alone(sft: Sft, whole: Dataset) -> None:
    train = sft.world.dataset.train
    assert train.items.lengths.sum() == whole.train.items.lengths.sum() - len(held_out_rows(whole.train, SHARE, SEED))
    assert sft.rows.dataset is sft.world.dataset
    assert sft.teacher is not None
    assert sft.teacher.rows.dataset is sft.world.dataset
    assert sft.world.writer.retriever is not None
    histories = whole.valid.history
    for scorer in (sft.teacher.scorer, sft.world.writer.retriever.scorer):
        options = scorer.options  # type: ignore[attr-defined]
        on_shown, on_all = (ITEM_KNN.run(part, whole.catalog, options) for part in (train, whole.train))
        np.testing.assert_array_equal(scorer.scores(histories), on_shown.scores(histories))
        assert not np.array_equal(scorer.scores(histories), on_all.scores(histories))


def test_valid_and_test_stay_whole(sft: Sft, whole: Dataset) -> None:
    for part, wanted in ((sft.world.dataset.valid, whole.valid), (sft.world.dataset.test, whole.test)):
        assert part.history.values.tolist() == wanted.history.values.tolist()


@pytest.fixture(scope="module")
def model(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose SFT has left targets out."""
    sft = {"epochs": 1, "held_out": SHARE, "ema_decay": 0.9}
    config = run_config(world, tmp_path_factory.mktemp("held_out"), run={"seed": SEED}, sft=sft)
    train_sft(config, silent)
    return checkpoint.best(config.folder / "sft").model


def rl_of(world: Path, runs: Path, init: Path, **sections: Any) -> Rl:
    rl = {"init": str(init), "targets": "held_out", **sections.pop("rl", {})}
    config = run_config(world, runs, rl=rl, **sections)
    return Rl(config, StageFolder(config.folder / "rl"))


def test_rl_asks_for_exactly_what_the_models_sft_has_left_out(world: Path, model: Path, tmp_path: Path) -> None:
    """The model says what that is: neither this config's seed nor its share counts."""
    rl = rl_of(world, tmp_path, model, run={"seed": 8})
    train = rl.world.dataset.train
    rows = held_out_rows(train, SHARE, SEED)
    for number in (0, 2):
        table = rl.environment.source.table(number)
        assert table.targets.items[:, 0].tolist() == [int(train.items[row][-1]) for row in rows]
        limit = rl.config.data.history_limit
        assert [row.tolist() for row in table.history] == [train.items[row][:-1][-limit:].tolist() for row in rows]


def test_a_slate_asks_for_the_held_out_item_alone(world: Path, model: Path, tmp_path: Path) -> None:
    options = {"tasks": {"next": 0.0, "slate": 1.0}, "rollout": {"kind": "sample", "slate_size": 3}}
    rl = rl_of(world, tmp_path, model, rl=options, prompts={"slate_size": 3})
    train = rl.world.dataset.train
    targets = rl.environment.source.table(0).targets.items
    held = [int(train.items[row][-1]) for row in held_out_rows(train, SHARE, SEED)]
    assert [row[row >= 0].tolist() for row in targets] == [[item] for item in held]


def test_a_model_whose_sft_has_left_nothing_out_is_refused(world: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="held_out") as caught:
        rl_of(world, tmp_path, trained, sft={"held_out": SHARE})
    assert "held no target out" in caught.value.why
    with pytest.raises(UserError, match="held_out"):
        rl_of(world, tmp_path / "base", trained, rl={"init": None, "start": "base"})


def test_a_share_of_nobody_is_refused(whole: Dataset) -> None:
    with pytest.raises(UserError, match=r"sft\.held_out = 0\.1"):
        without_held_out(dataset(sequences([[1, 2], [3, 4]]), whole), 0.1, 0)
    with pytest.raises(UserError, match=r"sft\.held_out = 0\.5"):
        without_held_out(dataset(sequences([]), whole), 0.5, 0)


def test_an_sft_that_shows_everything_overwrites_the_record_of_an_earlier_one() -> None:
    class Config:
        """As transformers keeps what it does not know: attributes."""

    config, train = Config(), sequences([[1, 2], [3, 4]])
    record(config, 0.5, 0)
    assert len(only_held_out(train, config)) == 1
    record(config, 0.0, 0)
    with pytest.raises(UserError, match="held_out"):
        only_held_out(train, config)
