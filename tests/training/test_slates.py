"""Slates and the native-text action space: prompts, labels, legal titles, and a whole run."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import evaluated, run_config, silent, write_world

from recrl.config import check
from recrl.data import dataset as datasets
from recrl.data.dataset import Examples
from recrl.data.examples import filled, next_examples
from recrl.data.ragged import Ragged
from recrl.errors import ConfigError
from recrl.evaluation.recommend import best_subject, recommend
from recrl.evaluation.subjects import subjects
from recrl.ranking.lists import named_alike
from recrl.ranking.rank import first_distinct
from recrl.run_data import load_data, make_run_data, new_model
from recrl.seeding import generator
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl, train_rl
from recrl.training.rows import RowMaker
from recrl.training.sft import Sft, train_sft

SLATE = {"slate_size": 3}
TITLES = {"action_space": "title", "template": "instruct", **SLATE}
RL = {
    "steps": 2,
    "prompts_per_step": 8,
    "mini_batches": 2,
    "tasks": {"next": 0.0, "slate": 1.0},
    "rollout": {"kind": "sample", "group_size": 4, "slate_size": 3},
    "rewards": [{"kind": "slate_ndcg"}, {"kind": "engagement"}, {"kind": "valid_distinct"}],
    "signal": {"kind": "decoupled"},
    "objective": {"kind": "sage"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("slates"))


def slate_config(world: Path, runs: Path, prompts: dict[str, Any], **sections: Any) -> Any:
    shape = {"preset": "tiny", "text_vocab_size": 400, "sid_init": "random"}
    values = {"prompts": prompts, "model": shape, "rl": RL, "sft": {"tasks": {"next": 0.0, "slate": 1.0}, "epochs": 2}}
    return run_config(world, runs, **(values | sections))


def maker_of(config: Any) -> tuple[RowMaker, Any]:
    dataset, index = load_data(config)
    _, tokenizer = new_model(config, dataset, index)
    made = make_run_data(config, tokenizer, dataset, index)
    return RowMaker.make(dataset, made.writer, made.trie, config.sft, 0), made


@pytest.mark.parametrize(
    "prompts", [SLATE, {**SLATE, "template": "instruct"}, TITLES], ids=["sid", "instruct", "title"]
)
def test_a_label_lists_the_next_items_and_ends(world: Path, tmp_path: Path, prompts: dict[str, Any]) -> None:
    rows, made = maker_of(slate_config(world, tmp_path, prompts))
    examples = next_examples(made.dataset.train, "slate", np.random.default_rng(0), 3)
    assert set(examples.targets.lengths.tolist()) == {1, 2, 3}
    names, end = made.writer.responses(), made.writer.tokenizer.eos_token_id
    written = rows._responses(examples, np.random.default_rng(0))
    for row in range(0, len(examples), 7):
        label = written.ids[row][written.first_scored[row] :].tolist()
        expected = [int(token) for item in examples.targets[row] for token in names[int(item)]]
        assert label == [*expected, end]
        nodes = written.nodes[row][written.first_scored[row] :]
        assert nodes[-1] == -1
        starts = np.cumsum([0, *(len(names[int(item)]) for item in examples.targets[row][:-1])])
        assert (nodes[starts] == 0).all()  # every item begins at the root
        assert (nodes[:-1] >= 0).all()


def test_history_and_targets_of_a_slate_follow_each_other(world: Path, tmp_path: Path) -> None:
    _, made = maker_of(slate_config(world, tmp_path, SLATE))
    train = made.dataset.train
    examples = next_examples(train, "slate", np.random.default_rng(1), 3)
    usable = [row for row in range(len(train)) if len(train.items[row]) > train.first_target[row]]
    for place, row in enumerate(usable):
        both = [*examples.history[place], *examples.targets[place]]
        assert both == train.items[row][: len(both)].tolist()


def test_titles_are_closed_by_a_line_and_none_is_the_beginning_of_another(world: Path, tmp_path: Path) -> None:
    _, made = maker_of(slate_config(world, tmp_path, TITLES))
    names, tokenizer = made.writer.responses(), made.writer.tokenizer
    for item in range(len(names)):
        assert tokenizer.decode(names[item].tolist()) == made.writer.title(item) + "\n"
    found = made.trie.walk(torch.from_numpy(names.padded(0)), torch.from_numpy(names.lengths))
    titles = [made.writer.title(item) for item in range(len(names))]
    assert [titles[item] for item in found.tolist()] == titles


def test_the_prompt_groups_the_history_by_topic_oldest_first(world: Path, tmp_path: Path) -> None:
    _, made = maker_of(slate_config(world, tmp_path, TITLES))
    catalog, writer = made.dataset.catalog, made.writer
    for item, (title, category) in enumerate([("Red\nball", "Balls"), ("Doll", "Dolls"), ("Blue ball", "Balls")]):
        catalog.titles[item], catalog.categories[item] = title, category
        catalog.brands[item], catalog.descriptions[item] = "", ""
    catalog.brands[1], catalog.descriptions[1] = "Acme", "A doll <a_1> that speaks"
    text = writer.text("slate", np.array([0, 1, 2], np.int32), np.array([4], np.int32))
    assert text == (
        "### Input:\nIn Balls the user took Red ball; Blue ball. In Dolls the user took Doll (Acme, A doll < a_1> that "
        "speaks).\nList the 3 items that the user takes next, best first.\n### List:\n"
    )


def test_lists_of_slates_keep_the_first_of_repeated_items() -> None:
    items = np.array([[4, 2, 4, -1, 2, 7], [1, 1, 1, 1, 1, 1]])
    scores = np.array([[-1, -1, -1, -2, -2, -2], [-1, -1, -1, -2, -2, -2]], np.float32)
    found, score = first_distinct(items, scores, 4)
    assert found.tolist() == [[4, 2, 7, -1], [1, -1, -1, -1]]
    assert score.tolist() == [[-1, -1, -2, -np.inf], [-1, -np.inf, -np.inf, -np.inf]]
    assert first_distinct(items, scores, 8)[0].shape == (2, 8)


@pytest.mark.parametrize("prompts", [SLATE, TITLES], ids=["sid", "title"])
def test_sft_rl_evaluation_and_recommendation_on_slates(world: Path, tmp_path: Path, prompts: dict[str, Any]) -> None:
    config = slate_config(world, tmp_path, prompts)
    train_sft(config, silent)
    status = train_rl(config, silent)
    assert status["state"] in {"finished", "stopped_early"}
    lines = [json.loads(line) for line in (config.folder / "rl" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "rollout/responses" in line]
    assert all(line["rollout/valid_ratio"] == 1 for line in steps)
    assert all("actor/entropy_lambda" in line for line in steps if line["signal/active_rows"])
    (result,) = evaluated(subjects(config.folder / "rl")[0], tmp_path / "evaluation")
    assert (result.slate_size, result.slate_beams) == (3, 4)
    assert result.metrics["legal_ratio@10"].value >= 0.1  # equal items of several slates stand in a list once
    history = " ".join(load_data(config)[0].catalog.item_ids[item] for item in (1, 2, 3))
    found = recommend(best_subject(config.folder), history, 5)
    assert 1 <= len(found) <= 5
    assert len({one.item_id for one in found}) == len(found)


def with_titles(world: Path, folder: Path, changes: dict[int, str]) -> Path:
    """The world with some titles changed."""
    dataset, _ = load_data(run_config(world, folder))
    for item, title in changes.items():
        dataset.catalog.titles[item] = title
    (folder / "data").mkdir(parents=True)
    datasets.save(dataset, folder / "data")
    shutil.copytree(world / "sids", folder / "sids")
    return folder


def test_items_of_one_title_are_one_item_in_the_title_space(world: Path, tmp_path: Path) -> None:
    alike = with_titles(world, tmp_path / "alike", {1: "Red ball", 3: " Red  ball", 7: "Red ball", 5: "", 6: ""})
    config = slate_config(alike, tmp_path, TITLES, rl=RL | {"start": "base"})
    rl = Rl(config, StageFolder(config.folder / "rl"))
    train = rl.world.dataset.train
    examples = next_examples(train, "slate", generator(0, "rl", "targets", 1), 3)
    stands_for = {3: 1, 7: 1}
    asked = [[stands_for.get(int(item), int(item)) for item in row] for row in examples.targets]
    assert [
        [item for item in row if item >= 0] for row in rl.environment.source.table(1).targets.items.tolist()
    ] == asked
    assert {1, 5, 6} <= {item for row in asked for item in row}  # items without a title are not one item
    named = named_alike(rl.world.dataset.test, rl.world.trie)
    assert not {3, 7} & {*named.targets.values.tolist(), *named.history.values.tolist()}
    scores = rl.validation.score(rl.policy)
    assert 0 <= scores["valid/ndcg@10"] <= scores["valid/hr@10"] <= 1


def test_a_rollout_of_other_slates_is_refused() -> None:
    rl = {"tasks": {"slate": 1.0}, "rollout": {"kind": "sample", "slate_size": 2}}
    with pytest.raises(ConfigError) as caught:
        check({"prompts": {"slate_size": 6}, "rl": rl}, "run.toml")
    assert "run.toml: two sections that do not go together" in str(caught.value)
    assert "rl.rollout.slate_size is 2 and prompts.slate_size 6" in str(caught.value)


def test_short_labels_are_filled_from_the_last_items_category() -> None:
    history, targets = Ragged.from_lists([[0], [1, 2], [4], [5]]), Ragged.from_lists([[1], [3, 6], [5, 0, 2], [7]])
    examples = Examples.plain(np.zeros(4, np.int32), history, targets)
    category = np.array([0, 0, 0, 0, 1, 1, 2, -1], np.int32)
    seen = set()
    for seed in range(20):
        rows = [row.tolist() for row in filled(examples, category, 3, np.random.default_rng(seed)).targets]
        assert rows[0][0] == 1
        assert sorted(rows[0][1:]) == [2, 3]  # 0 is in the history, 1 in the label
        assert rows[1:] == [[3, 6], [5, 0, 2], [7]]  # nothing else of the category, full, and no category
        seen.add(tuple(rows[0]))
    assert len(seen) == 2  # drawn, not the first ones


@pytest.mark.parametrize(("fill", "lengths"), [("", {1, 2, 3}), ("tag", {3})])
def test_a_filled_label_is_full(world: Path, tmp_path: Path, fill: str, lengths: set[int]) -> None:
    sft = {"tasks": {"next": 0.0, "slate": 1.0}, "label_fill": fill}
    rows, made = maker_of(slate_config(world, tmp_path, SLATE, sft=sft))
    epoch = rows.epoch(0)
    names = {tuple(row.tolist()): item for item, row in enumerate(made.writer.responses())}
    found = set()
    for row in range(len(epoch)):
        nodes = epoch.nodes[row][epoch.first_scored[row] :].tolist()
        label = epoch.ids[row][epoch.first_scored[row] :].tolist()
        starts = [place for place, node in enumerate(nodes) if node == 0] + [len(label) - 1]
        items = [names[tuple(label[begin:end])] for begin, end in pairwise(starts)]
        found.add(len(items))
    assert found == lengths


def test_a_plain_row_of_titles_scores_every_item_behind_the_first(world: Path, tmp_path: Path) -> None:
    sft = {"tasks": {"next": 1.0}}
    rows, made = maker_of(
        slate_config(world, tmp_path, {"action_space": "title", **SLATE}, sft=sft, data={"history_limit": 99})
    )
    epoch, train = rows.epoch(0), made.dataset.train
    usable = [row for row in range(len(train)) if len(train.items[row]) > 1]
    assert len(epoch) == len(usable)
    for place, row in enumerate(usable[:20]):
        names = [made.writer.title(int(item)) + "\n" for item in train.items[row]]
        ids, first = epoch.ids[place], epoch.first_scored[place]
        assert made.writer.tokenizer.decode(ids[1:first]) == names[0]
        assert made.writer.tokenizer.decode(ids[first:]) == "".join(names[1:])
        assert (epoch.nodes[place][1:] >= 0).all()


@pytest.mark.parametrize("template", ["plain", "instruct"])
def test_the_teacher_and_augmentation_work_on_titles_as_on_sids(world: Path, tmp_path: Path, template: str) -> None:
    prompts = {"action_space": "title", "template": template, **SLATE}
    sft = {
        "tasks": {"next": 1.0, "slate": 1.0},
        "augment": {"drop": 0.2, "shuffle": 0.5},
        "teacher": {"weight": 0.5, "prompts": 4, "responses": 3},
    }
    run = Sft(slate_config(world, tmp_path, prompts, sft=sft), StageFolder(tmp_path / "sft"))
    batch = run.rows.epoch(1)
    values = run.train_step(batch.select(np.arange(0, len(batch), 20)), 0.001, taught=True)
    assert values["sft/teacher_loss"] > 0
    assert values["sft/loss"] > 0
    taught = run.teacher.batch(0) if run.teacher is not None else None
    assert taught is not None
    spelled = run.world.trie.walk(taught.tokens, taught.mask.sum(1))
    assert (spelled >= 0).all()
