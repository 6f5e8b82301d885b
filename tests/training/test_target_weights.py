"""Weights of targets by training frequency: by hand, on average, and in the loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import run_config

from recrl.data.dataset import Dataset, Examples, Sequences
from recrl.data.ragged import Ragged
from recrl.models.checkpoint import load_folder
from recrl.run_data import load_data
from recrl.store.run_folder import StageFolder
from recrl.training.sft import Sft
from recrl.training.target_weights import target_weights


def train_of(rows: list[list[int]], first: list[int]) -> Sequences:
    return Sequences(np.arange(len(rows), dtype=np.int32), Ragged.from_lists(rows), np.array(first, np.int32))


@pytest.fixture
def whole(world: Path, tmp_path: Path) -> Dataset:
    return load_data(run_config(world, tmp_path))[0]


def test_weights_by_hand(whole: Dataset) -> None:
    """Counts of items 0 to 3: 2, 2, 2, 1; targets 1, 2, 2, 3, whose 1 / (n + 1) have the mean 3 / 8."""
    data = replace(whole, train=train_of([[0, 1, 2], [1, 2], [0, 3]], [1, 1, 1]))
    weights = target_weights(data, 1.0)
    assert len(weights) == len(whole.catalog) + 1
    assert weights[:4] == pytest.approx([8 / 9, 8 / 9, 8 / 9, 4 / 3])
    assert weights[4] == pytest.approx(8 / 3)  # never shown
    assert weights[-1] == 1
    assert target_weights(data, 0.5)[:4] == pytest.approx(
        np.array([3**-0.5] * 3 + [2**-0.5]) * 4 / (3 * 3**-0.5 + 2**-0.5)
    )


def test_examples_of_the_source_count_with_history_and_targets(whole: Dataset) -> None:
    """Counts of items 0 and 1: 3 and 1; targets 1, 0, 0."""
    asked = Examples.plain(np.zeros(1, np.int32), Ragged.from_lists([[0]]), Ragged.from_lists([[1]]))
    more = Examples.plain(np.zeros(2, np.int32), Ragged.from_lists([[], []]), Ragged.from_lists([[0], [0]]))
    data = replace(whole, train=train_of([], []), train_examples=Examples.join([asked, more]))
    assert target_weights(data, 1.0)[:2] == pytest.approx([0.75, 1.5])


def test_a_power_of_0_weighs_all_exactly_1(whole: Dataset) -> None:
    assert (target_weights(whole, 0.0) == 1).all()
    assert (target_weights(replace(whole, train=train_of([[4], [5]], [1, 1])), 0.7)[-1:] == 1).all()


def sft_of(world: Path, runs: Path, **sections: Any) -> Sft:
    config = run_config(world, runs, **sections)
    return Sft(config, StageFolder(config.folder / "sft"))


@pytest.mark.parametrize("template", ["plain", "instruct"])
def test_the_loss_is_the_weighted_sum_over_the_number_of_scored_tokens(
    world: Path, tmp_path: Path, template: str
) -> None:
    options: dict[str, Any] = {"prompts": {"template": template}, "model": {"text_vocab_size": 400}}
    sft = sft_of(world, tmp_path, sft={"target_weight_power": 0.7}, **options)
    batch = sft.rows.epoch(0).select(np.arange(6))
    weights = target_weights(sft.world.dataset, 0.7)
    names = {tuple(row.tolist()): item for item, row in enumerate(sft.rows.responses)}
    sft.policy.save_pretrained(tmp_path / "model")
    stock, _ = load_folder(tmp_path / "model")
    total, tokens = 0.0, 0
    for number in range(len(batch)):
        ids = torch.from_numpy(batch.ids[number]).long()
        first = int(batch.first_scored[number])
        with torch.no_grad():
            logp = stock(ids[None]).logits[0].log_softmax(-1)
        each = -logp[first - 1 : -1].gather(1, ids[first:, None]).squeeze(1)
        left, at = ids[first:].tolist(), 0
        while at < len(left):
            size = next(size for size in range(1, 6) if tuple(left[at : at + size]) in names)
            total += float(weights[names[tuple(left[at : at + size])]] * each[at : at + size].sum())
            at += size
        tokens += len(left)
    values = sft.train_step(batch, lr=0.0)
    assert values["sft/loss"] == pytest.approx(total / tokens, rel=1e-4)
    assert values["sft/tokens"] == tokens


def test_next_titles_and_slates_are_weighted_by_their_items_and_translations_are_not(
    world: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"prompts": {"template": "instruct", "slate_size": 2}, "model": {"text_vocab_size": 400}}

    def items_of(task: str) -> tuple[Sft, list[list[int]]]:
        sft = sft_of(world, tmp_path / task, sft={"tasks": {"next": 0.0, task: 1.0}}, **options)
        rows = sft.rows.epoch(0)
        assert all((rows.items[row][: rows.first_scored[row]] == -1).all() for row in range(len(rows)))
        return sft, [rows.items[row][rows.first_scored[row] :].tolist() for row in range(len(rows))]

    sft, found = items_of("sids_to_title")
    titles = sft.world.dataset.catalog.titles
    rows = sft.rows.epoch(0)
    for row, items in enumerate(found):
        assert len(set(items)) == 1
        response = rows.ids[row][rows.first_scored[row] :][:-1]
        assert sft.rows.writer.tokenizer.decode(response) == titles[items[0]]
    sft, found = items_of("slate")
    assert all(items[-1] == -1 and 1 <= len(set(items[:-1])) <= 2 for items in found)
    for task in ("title_to_sid", "sid_to_title", "description_to_sid"):
        assert {item for items in items_of(task)[1] for item in items} == {-1}
