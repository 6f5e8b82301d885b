"""Prompts that show candidates: what a config may ask for, training rows, and a run of RecLLM's recipe."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import evaluated, metrics, run_config, silent, write_world

from recrl.baselines.pools import recall
from recrl.config import RunConfig, check, read_recipe
from recrl.config_layers import merge
from recrl.data.examples import next_examples, with_target
from recrl.data.ragged import Ragged
from recrl.errors import ConfigError, UserError
from recrl.evaluation.recommend import best_subject, recommend
from recrl.evaluation.subjects import subjects
from recrl.ranking.lists import named_alike
from recrl.run_data import RunData, load_data, load_run_data, make_run_data, new_model
from recrl.seeding import generator
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl, train_rl
from recrl.training.rows import RowMaker, Rows
from recrl.training.sft import train_sft
from recrl.training_sections import SftSection

POOL = 20
TITLES = {"action_space": "title", "template": "instruct", "pool": POOL}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("pool"))


def pool_config(world: Path, runs: Path, prompts: dict[str, Any], **sections: Any) -> RunConfig:
    model = {"preset": "tiny", "text_vocab_size": 400, "sid_init": "random"}
    return run_config(world, runs, prompts=prompts, model=model, **sections)


def made_world(config: RunConfig) -> RunData:
    dataset, index = load_data(config)
    _, tokenizer = new_model(config, dataset, index)
    return make_run_data(config, tokenizer, dataset, index)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"prompts": {"pool": 1, "template": "instruct"}}, "leaves nothing to choose"),
        ({"prompts": {"pool": 60, "template": "instruct", "slate_size": 61}}, "slate of 61"),
        ({"prompts": {"pool": 49, "template": "instruct"}}, "eval.beam_width = 50 beams can't end in prompts.pool"),
        ({"prompts": {"pool": 60, "template": "instruct"}, "sft": {"tasks": {"recif": 1.0}}}, "task 'recif'"),
        ({"prompts": {"pool": 60, "template": "instruct"}, "rl": {"tasks": {"recif": 1.0}}}, "task 'recif'"),
        ({"prompts": {"pool": 60, "template": "instruct"}, "sft": {"feedback": "kept"}}, "sft.feedback"),
        ({"prompts": {"pool": 60, "template": "instruct", "pool_order": "random"}}, "'catalogue' or 'rank'"),
        (
            {
                "prompts": {"pool": 60, "template": "instruct"},
                "backend": {"logprob_space": "legal"},
                "sft": {"teacher": {"weight": 1.0}},
            },
            "sft.teacher",
        ),
    ],
)
def test_what_can_not_go_with_a_pool_is_refused(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(sections, "run.toml")
    assert words in str(caught.value)


def test_what_goes_with_a_pool_is_taken() -> None:
    tasks = {"tasks": {"recif": 0.0, "next": 1.0}, "teacher": {"weight": 0.5}}
    config = check({"prompts": {"pool": 50, "template": "instruct", "retriever": {"num_recent": 3}}, "sft": tasks}, "t")
    assert config.prompts.retriever.kind == "item_knn"
    assert config.prompts.retriever.given == {"num_recent": 3}


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ({"pool": 55}, "which a history of 6 leaves 54"),
        ({"retriever": {"kind": "oracle"}}, "prompts.retriever.kind = 'oracle'"),
        ({"retriever": {"windows": 2}}, "prompts.retriever.windows"),
    ],
)
def test_a_retriever_that_can_not_be_is_told_before_training(
    world: Path, tmp_path: Path, prompts: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        made_world(pool_config(world, tmp_path, TITLES | prompts))
    assert words in str(caught.value)


@pytest.mark.parametrize("task", ["next", "titles_to_sid", "sids_to_title"])
def test_a_training_row_shows_candidates_and_keeps_its_true_answer(world: Path, tmp_path: Path, task: str) -> None:
    prompts = {"template": "instruct", "pool": POOL}
    config = pool_config(world, tmp_path, prompts, sft={"tasks": {"next": 0.0, task: 1.0, "title_to_sid": 1.0}})
    made = made_world(config)
    rows = RowMaker.make(made.dataset, made.writer, made.trie, config.sft, config.run.seed)
    epoch = rows.epoch(0)
    texts = made.writer.tokenizer.batch_decode([row.tolist() for row in epoch.ids])
    shown = ["The candidates are: " in text for text in texts]
    asks = ["Which item has the title" in text for text in texts]
    assert shown == [not one for one in asks]
    train = made.dataset.train
    examples = next_examples(train, task, generator(config.run.seed, "rows", task, 0, 0))
    candidates = made.writer.prompts(examples, train.select(with_target(train))).pool
    answerable = recall(candidates, examples.targets) > 0
    assert sum(shown) == answerable.sum()
    assert 0 < answerable.sum() < len(answerable)
    plain = replace(rows, writer=replace(made.writer, retriever=None)).epoch(0)
    kept = np.ones(len(plain), bool)  # the same rows in the same order, but for those whose target is not shown
    kept[len(plain) - len(answerable) if asks[0] else 0 :][: len(answerable)] = answerable
    assert answers(epoch) == [answer for answer, one in zip(answers(plain), kept, strict=True) if one]


def answers(rows: Rows) -> list[list[int]]:
    return [row[begin:].tolist() for row, begin in zip(rows.ids, rows.first_scored, strict=True)]


def test_plain_prompts_show_their_candidates_before_the_history(world: Path, tmp_path: Path) -> None:
    made = made_world(
        run_config(world, tmp_path, prompts={"pool": POOL, "pool_order": "rank"}, eval={"beam_width": POOL})
    )
    examples, writer = made.dataset.valid, made.writer
    prompts = writer.prompts(examples)
    assert prompts.pool is not None
    end = int(writer.tokenizer.eos_token_id)
    for row, ids in enumerate(prompts):
        history = examples.history[row][-writer.history_limit :]
        named = [
            [int(token) for item in items for token in writer.names[item]] for items in (prompts.pool[row], history)
        ]
        assert ids.tolist() == [*writer.bos, *named[0], end, *named[1]]


def test_without_a_target_among_its_candidates_there_is_nothing_to_train_on(world: Path, tmp_path: Path) -> None:
    made = made_world(run_config(world, tmp_path, prompts={"pool": POOL}, eval={"beam_width": POOL}))
    rows = RowMaker.make(made.dataset, made.writer, made.trie, SftSection(), 0)
    train = made.dataset.train
    examples = next_examples(train, "next", np.random.default_rng(0))
    nowhere = replace(examples, targets=examples.history.tail(1))  # of which no candidate is one
    assert len(rows._responses(nowhere, np.random.default_rng(0), train.select(with_target(train)))) == 0


def test_the_target_is_a_candidate_where_others_histories_lead_to_it_and_nowhere_else(
    world: Path, tmp_path: Path
) -> None:
    config = pool_config(world, tmp_path, TITLES | {"retriever": {"kind": "popularity"}})
    made = made_world(config)
    train = made.dataset.train
    examples = next_examples(train, "next", np.random.default_rng(0))
    own = train.select(with_target(train))
    found = made.writer.prompts(examples, own).pool
    assert found is not None
    counts = np.bincount(train.items.values, minlength=len(made.dataset.catalog))
    for row, sequence in enumerate(own.items):
        left = counts - np.bincount(sequence[own.first_target[row] - 1 :], minlength=len(counts))
        history = {*examples.history.tail(config.data.history_limit)[row].tolist()}
        ranked = sorted(range(len(counts)), key=lambda item, left=left: (-left[item], item))
        assert sorted(found[row].tolist()) == sorted([item for item in ranked if item not in history][:POOL])
    with_own = recall(found, examples.targets).mean()
    assert with_own < recall(made.writer.prompts(examples).pool, examples.targets).mean()


def test_recllms_recipe_with_a_pool(world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = {"sft": {"epochs": 1}, "rl": {"steps": 2, "prompts_per_step": 8, "rollout": {"group_size": 4}}}
    values = merge(merge(read_recipe("recllm_sage"), small), {"prompts": TITLES})
    config = pool_config(world, tmp_path, **values)
    train_sft(config, silent)
    with caplog.at_level(logging.INFO):
        train_rl(config, silent)
    assert sum("are among their candidates" in message for message in caplog.messages) == 1
    lines = [line for line in metrics(config.folder / "rl") if "rollout/responses" in line]
    assert [line["rollout/valid_ratio"] for line in lines] == [1.0, 1.0]

    rl_run = Rl(config, StageFolder(tmp_path / "again"))
    groups, _ = rl_run.generate(7)
    assert groups.prompts.pool is not None
    assert groups.items.shape[1:] == (4, 6)
    assert (groups.items.flatten(1).unsqueeze(2) == groups.prompts.pool.unsqueeze(1)).any(-1).all()
    assert not (groups.prompts.pool.unsqueeze(2) == groups.prompts.history.unsqueeze(1)).any()

    (result,) = evaluated(subjects(config.folder / "rl")[0], tmp_path / "evaluation")
    made, _ = load_run_data(config, subjects(config.folder / "rl")[0].model)
    test = named_alike(made.dataset.test, made.trie)
    pool = made.writer.prompts(made.dataset.test).pool
    assert pool is not None
    assert result.metrics["pool_recall"].value == pytest.approx(recall(pool, test.targets).mean())
    assert result.metrics["hr@20"].value <= result.metrics["pool_recall"].value

    history = [1, 2, 3]
    ids = made.dataset.catalog.item_ids
    found = recommend(best_subject(config.folder), " ".join(ids[item] for item in history), 5)
    (candidates,) = made.writer.retriever.pools(Ragged.from_lists([history]))  # type: ignore[union-attr]
    assert {one.item_id for one in found} <= {ids[item] for item in candidates}
    with pytest.raises(UserError, match="--k 21"):
        recommend(best_subject(config.folder), ids[1], POOL + 1)


def test_single_items_are_ranked_among_the_candidates(world: Path, tmp_path: Path) -> None:
    sections = {"sft": {"epochs": 1}, "eval": {"exclude_history": True}}
    config = pool_config(world, tmp_path, {"template": "instruct", "pool": POOL}, **sections)
    train_sft(config, silent)
    subject = best_subject(config.folder)
    both = evaluated(subject, tmp_path / "evaluation")
    assert [result.name for result in both] == ["sft", "sft-new"]
    reached, bound = ([result.metrics[name].value for result in both] for name in ("hr@20", "pool_recall"))
    assert reached[0] == pytest.approx(bound[0])  # a list as long as the pool holds every candidate
    assert reached[1] <= bound[1] == bound[0]  # without the history's items, of which prompts show the latest alone
    assert both[0].metrics["legal_ratio@10"].value == 1.0
    made, _ = load_run_data(config, subject.model)
    found = recommend(subject, made.dataset.catalog.item_ids[3], POOL)
    assert len(found) == POOL
    one = made.writer.prompts(made.dataset.test.select(np.arange(3)))
    narrow, wide = one.select(np.array([2, 0])), one.pool
    assert narrow.pool is not None
    assert wide is not None
    assert [row.tolist() for row in narrow.pool] == [wide[2].tolist(), wide[0].tolist()]


def test_the_legal_space_of_an_update_is_the_rollouts(world: Path, tmp_path: Path) -> None:
    sections = {
        "backend": {"logprob_space": "legal"},
        "rl": {"start": "base", "tasks": {"next": 1.0, "title_to_sid": 1.0}},
    }
    config = pool_config(world, tmp_path, {"template": "instruct", "pool": POOL}, **sections)
    rl = Rl(config, StageFolder(tmp_path / "rl"))
    groups, _ = rl.generate(0)
    pool = groups.prompts.pool
    assert pool is not None
    shows = (pool >= 0).any(1)
    assert shows.any()
    assert not shows.all()  # prompts of the other task may be answered with the whole catalogue
    total = groups.logp.sum(-1).exp().sum(1)
    assert (total <= 1 + 1e-5).all()
    inside = (groups.items[..., 0].unsqueeze(2) == pool.unsqueeze(1)).any(-1) & groups.exists
    assert torch.equal(inside.all(1), shows)


@pytest.mark.parametrize("recipe", ["recast", "s_dpo", "singer", "singer_rl_align"])
def test_a_step_of_another_recipe(world: Path, tmp_path: Path, recipe: str) -> None:
    prompts = {"template": "instruct", "pool": POOL, "pool_order": "rank"}
    small = {"rl": {"start": "base", "prompts_per_step": 12, "rollout": {"group_size": 4}}, "prompts": prompts}
    config = pool_config(world, tmp_path, **merge(read_recipe(recipe), small))
    rl = Rl(config, StageFolder(tmp_path / "rl"))
    groups, _ = rl.generate(1)
    pool = groups.prompts.pool
    assert pool is not None
    open_to_all = (pool < 0).all(1)
    named = (groups.items.flatten(1).unsqueeze(2) == pool.unsqueeze(1)).any(-1) | (groups.items.flatten(1) < 0)
    assert (named.all(1) | open_to_all).all()
    rl.folder.path.mkdir()
    values = rl.step()
    assert values["rollout/responses"] > 0
    assert values["signal/active_rows"] > 0
