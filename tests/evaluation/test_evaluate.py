"""Evaluation, recommendation and the report of small trained runs, end to end."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import ITEMS, evaluated, run_config, write_world

from recrl.config import RunConfig
from recrl.data import dataset as datasets
from recrl.data.prepare import prepare
from recrl.data.ragged import Ragged
from recrl.data.recif_writer import write_recif
from recrl.errors import UserError
from recrl.evaluation import metrics
from recrl.evaluation.evaluate import Evaluation, evaluate
from recrl.evaluation.measures import Measures
from recrl.evaluation.recommend import best_subject, latest_run, recommend
from recrl.evaluation.results import load_result
from recrl.evaluation.subjects import subjects
from recrl.parts import Choice
from recrl.ranking.rank import Ranking, length_batches, rank
from recrl.report.page import build_report
from recrl.run_data import load_run_data
from recrl.sids import codes
from recrl.sids.build import SidPlan, build_folder
from recrl.training.rl import train_rl
from recrl.training.sft import train_sft


def silent(*_: Any) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """SFT and two steps of RL."""
    folder = tmp_path_factory.mktemp("evaluate")
    sizes = {"k": [1, 5, 10], "beam_width": 30, "bootstrap": 50}
    config = run_config(write_world(folder), folder / "runs", rl={"steps": 2, "prompts_per_step": 8}, eval=sizes)
    train_sft(config, silent)
    train_rl(config, silent)
    return config


def test_a_run_is_compared_with_baselines_and_its_files_are_kept(trained: RunConfig) -> None:
    results, folder = evaluate([trained.folder], "test", silent)
    assert [result.name for result in results] == ["popularity", "item_knn", "hybrid_knn", "sft", "rl", "optimum"]
    for result in results:
        assert load_result(folder / f"{result.name}-test.json") == result
        assert result.num_examples == 150
    sft = results[2].metrics
    assert sft["legal_ratio@10"].value == 1.0
    assert 0 <= sft["hr@1"].value <= sft["hr@10"].value <= 1
    assert sft["hr@10"].low <= sft["hr@10"].value <= sft["hr@10"].high  # type: ignore[operator]
    page = build_report(trained.folder).read_text()
    assert "Item-kNN" in page


def test_figures_are_those_of_the_ranking_itself(trained: RunConfig, tmp_path: Path) -> None:
    subject = subjects(trained.folder / "sft")[0]
    result = evaluated(subject, tmp_path)[0]
    world, policy = load_run_data(subject.config, subject.model)
    examples = world.dataset.test
    found = rank(policy, world.trie, world.writer.prompts(examples), 30, 10)
    hits = metrics.pass_at(found.items, examples.targets, 10)
    assert result.metrics["hr@10"].value == pytest.approx(hits.mean())
    assert (np.diff(found.scores, axis=1) <= 0).all()
    for row in found.items:
        assert len(set(row.tolist())) == 10


def test_items_of_the_history_leave_and_those_behind_move_up() -> None:
    items = np.array([[4, 2, 7, -1], [1, 3, 2, 0]])
    scores = np.array([[-1, -2, -3, -np.inf], [-1, -2, -3, -4]], np.float32)
    left = Ranking(items, scores).without(Ragged.from_lists([[2, 2, 9], []]))
    assert left.items.tolist() == [[4, 7, -1, -1], [1, 3, 2, 0]]
    assert left.scores[0].tolist() == [-1, -3, -np.inf, -np.inf]
    assert left.first(2).items.tolist() == [[4, 7], [1, 3]]


def test_lists_of_new_items_stand_beside_the_others(trained: RunConfig, tmp_path: Path) -> None:
    subject = subjects(trained.folder / "sft")[0]
    config = trained.model_copy(update={"eval": trained.eval.model_copy(update={"exclude_history": True})})
    both = Evaluation.make(config, "test", tmp_path).model(replace(subject, config=config))
    assert [result.name for result in both] == ["sft", "sft-new"]
    plain = evaluated(subject, tmp_path / "plain")[0]
    assert both[0].metrics == plain.metrics
    world, policy = load_run_data(subject.config, subject.model)
    examples = world.dataset.test
    found = rank(policy, world.trie, world.writer.prompts(examples), 30, 30).items
    lists = [
        [item for item in row if item not in history.tolist()][:10]
        for row, history in zip(found.tolist(), examples.history, strict=True)
    ]
    assert both[1].metrics["hr@10"].value == pytest.approx(
        np.mean([int(target[0]) in row for row, target in zip(lists, examples.targets, strict=True)])
    )
    names = [result.name for result in Evaluation.make(config, "test", tmp_path).baselines()]
    assert names == [
        "popularity",
        "popularity-new",
        "item_knn",
        "item_knn-new",
        "hybrid_knn",
        "hybrid_knn-new",
        "optimum",
    ]


def test_nothing_of_the_history_is_recommended_where_new_items_are_wanted(trained: RunConfig) -> None:
    config = trained.model_copy(update={"eval": trained.eval.model_copy(update={"exclude_history": True})})
    subject = replace(best_subject(trained.folder), config=config)
    catalog = datasets.load(trained.data.path).catalog
    top = [found.item_id for found in recommend(best_subject(trained.folder), catalog.item_ids[3], 5)]
    again = [found.item_id for found in recommend(subject, " ".join(top[:2]), 5)]
    assert len(again) == 5
    assert not set(top[:2]) & set(again)


def test_the_token_budget_changes_nothing(trained: RunConfig) -> None:
    subject = subjects(trained.folder / "sft")[0]
    world, policy = load_run_data(subject.config, subject.model)
    prompts = world.writer.prompts(world.dataset.test)
    wide = rank(policy, world.trie, prompts, 20, 10)
    policy.token_budget = 64
    narrow = rank(policy, world.trie, prompts, 20, 10)
    np.testing.assert_array_equal(wide.items, narrow.items)
    np.testing.assert_allclose(wide.scores, narrow.scores, atol=1e-4)


def test_batches_of_prompts_fill_the_token_budget_and_do_not_pass_it() -> None:
    prompts = Ragged.from_lists([[1] * length for length in (3, 1, 3, 3, 4)])
    found = length_batches(prompts, token_budget=2 * (3 + 2), width=2)
    assert [rows.tolist() for rows in found] == [[1, 0], [2, 3], [4]]


def test_equally_rare_items_are_cold_by_the_runs_seed(trained: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recrl.evaluation.measures.dataset_counts", lambda dataset: np.ones(len(dataset.catalog), int))
    dataset = datasets.load(trained.data.path)

    def cold(seed: int) -> list[bool]:
        config = trained.model_copy(update={"run": trained.run.model_copy(update={"seed": seed})})
        return Measures.make(dataset, config).cold.tolist()

    assert cold(0) == cold(0) != cold(1)


def test_one_checkpoint_a_stage_and_a_run_can_be_named(trained: RunConfig) -> None:
    checkpoint = (trained.folder / "rl" / "latest").resolve()
    assert [subject.name for subject in subjects(checkpoint)] == [f"rl-{checkpoint.name}"]
    assert [subject.name for subject in subjects(trained.folder / "rl")] == ["rl"]
    assert [subject.name for subject in subjects(trained.folder)] == ["sft", "rl"]
    with pytest.raises(UserError, match="nothing to evaluate"):
        subjects(trained.folder / "evaluation-of-nothing")


def test_recommendations_are_the_ranking_of_that_history(trained: RunConfig) -> None:
    subject = best_subject(trained.folder)
    world, _ = load_run_data(subject.config, subject.model)
    ids = world.dataset.catalog.item_ids
    found = recommend(subject, f"{ids[3]}, {ids[7]} {ids[1]}", 5)
    assert [row.rank for row in found] == [1, 2, 3, 4, 5]
    assert len({row.item_id for row in found}) == 5
    assert all(first.score >= second.score for first, second in itertools.pairwise(found))
    everything = recommend(subject, ids[3], ITEMS)
    assert {row.item_id for row in everything} == set(ids)


@pytest.mark.parametrize(
    ("user", "k", "words"),
    [
        ("", 5, "empty"),
        ("no-such-item", 5, "not in the catalogue"),
        (None, ITEMS + 1, f"has {ITEMS} items"),
        (None, 0, "--k 0"),
    ],
)
def test_what_can_not_be_recommended_is_said(trained: RunConfig, user: str | None, k: int, words: str) -> None:
    subject = best_subject(trained.folder)
    world, _ = load_run_data(subject.config, subject.model)
    with pytest.raises(UserError, match=words):
        recommend(subject, world.dataset.catalog.item_ids[0] if user is None else user, k)


def test_the_latest_run_is_found(trained: RunConfig, tmp_path: Path) -> None:
    assert latest_run(trained.run.dir) == trained.folder
    with pytest.raises(UserError, match="no run below"):
        latest_run(tmp_path)


def test_a_model_is_held_to_the_sids_that_it_learned(trained: RunConfig, tmp_path: Path) -> None:
    subject = subjects(trained.folder / "sft")[0]
    index = codes.load(trained.sid.path)
    other = codes.with_suffixes(np.roll(index.codes, 1, axis=0), index.sizes, index.meta)
    (tmp_path / "other").mkdir()
    codes.save(other, tmp_path / "other")
    moved = subject.config.model_copy(
        update={"sid": subject.config.sid.model_copy(update={"path": tmp_path / "other"})}
    )
    with pytest.raises(UserError, match="learned other SIDs"):
        load_run_data(moved, subject.model)


def test_alignment_tasks_and_sentences_train_and_rank(tmp_path: Path) -> None:
    """All of SINGER's tasks at once, text and SIDs in one vocabulary, legal responses that end with the end token."""
    tasks = dict.fromkeys(
        ("next", "sid_to_title", "title_to_sid", "titles_to_sid", "sids_to_title", "description_to_sid"), 0.5
    )
    config = run_config(
        write_world(tmp_path),
        tmp_path / "runs",
        model={"text_vocab_size": 300},
        prompts={"template": "instruct"},
        backend={"logprob_space": "legal"},
        sft={"epochs": 1, "tasks": tasks},
        eval={"k": [1, 5], "beam_width": 10, "bootstrap": 0},
    )
    train_sft(config, silent)
    rows = [json.loads(line) for line in (config.folder / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["sft/loss"]) for row in rows)
    result = evaluated(subjects(config.folder)[0], tmp_path / "evaluation")[0]
    assert result.metrics["legal_ratio@5"].value == 1.0
    assert result.metrics["hr@1"].low is None  # no bootstrap was asked for


def test_recif_runs_end_to_end_task_by_task(tmp_path: Path) -> None:
    """OpenOneRec's format: prompts of text with SIDs in them, target sets, label prediction by AUC."""
    market = {"users": 60, "items": 40, "interactions": 700, "categories": 4, "groups": 2}
    write_recif(market, tmp_path / "recif")
    prepare("recif", tmp_path / "recif", tmp_path / "data")
    config = run_config(
        tmp_path,
        tmp_path / "runs",
        model={"text_vocab_size": 400},
        prompts={"template": "instruct"},
        sft={"epochs": 1, "tasks": {"recif": 1.0}},
        eval={"k": [1, 5], "beam_width": 10, "valid_examples": 20, "bootstrap": 10},
    )
    dataset = datasets.load(tmp_path / "data")
    build_folder(dataset, SidPlan(Choice(kind="tfidf-svd"), Choice(kind="given"), 3, 256), 0, tmp_path / "sids")
    train_sft(config, silent)
    results = evaluated(subjects(config.folder)[0], tmp_path / "evaluation")
    by_split = {result.split: result.metrics for result in results}
    assert set(by_split) == {f"test.{task}" for task in sorted(set(dataset.test.tasks))}
    assert set(by_split["test.label_pred"]) == {"auc"}
    assert 0 <= by_split["test.label_pred"]["auc"].value <= 1
    sets = by_split["test.video"]
    assert sets["recall@5"].value <= sets["pass@5"].value
    assert 100 * sets["pass@1"].value <= sets["partial_hit@1"].value + 1e-9


def test_label_scores_are_the_shares_of_yes_and_no(trained: RunConfig) -> None:
    subject = subjects(trained.folder / "sft")[0]
    _, policy = load_run_data(subject.config, subject.model)
    hidden = torch.randn(3, 1, policy.head.shape[1], generator=torch.Generator().manual_seed(0))
    words = torch.tensor([[[5, 6]]]).expand(3, 1, -1)
    expected = (hidden @ policy.head.t())[..., [5, 6]]
    torch.testing.assert_close(policy.candidate_logits(hidden, words), expected, atol=1e-6, rtol=1e-5)
