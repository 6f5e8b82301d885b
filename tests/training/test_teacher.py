"""Soft targets: what they are made of, and what they may not see."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import metrics, run_config, silent, write_world

from recrl.config import RunConfig
from recrl.data.dataset import Sequences
from recrl.data.ragged import Ragged
from recrl.errors import UserError
from recrl.store.run_folder import StageFolder
from recrl.training.ahead import Ahead
from recrl.training.sft import Sft, train_sft
from recrl.training.teacher import Teacher, soft_target_loss


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("teacher")
    teacher = {"weight": 0.7, "prompts": 12, "responses": 4}
    return run_config(write_world(folder), folder / "runs", sft={"teacher": teacher})


@pytest.fixture(scope="module")
def run(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Sft:
    return Sft(config, StageFolder(tmp_path_factory.mktemp("stage")))


def test_weights_sum_to_one_and_follow_the_scores(run: Sft) -> None:
    assert run.teacher is not None
    batch = run.teacher.batch(3)
    sums = torch.zeros(len(batch.prompts)).index_add(0, batch.prompt_of, batch.advantage)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    for prompt in range(len(batch.prompts)):
        weights = batch.advantage[batch.prompt_of == prompt]
        assert (weights[:-1] >= weights[1:]).all()
        assert (weights > 0).all()


def test_targets_are_items_that_the_history_does_not_hold(run: Sft) -> None:
    assert run.teacher is not None
    batch = run.teacher.batch(5)
    items = run.world.trie.walk(batch.tokens, batch.mask.sum(1))
    assert (items >= 0).all()
    histories = batch.prompts.ids.tolist()
    for row, item in enumerate(items.tolist()):
        sid = run.world.writer.sid_ids[item].tolist()
        prompt = histories[int(batch.prompt_of[row])]
        assert not any(prompt[place : place + len(sid)] == sid for place in range(len(prompt)))


def test_single_items_of_the_whole_catalogue_ask_for_their_neighbours(config: RunConfig, run: Sft) -> None:
    assert run.teacher is not None
    options = config.sft.teacher.model_copy(update={"item_share": 1.0, "prompts": 20})
    teacher = replace(run.teacher, options=options)
    catalog, sid = run.world.dataset.catalog, run.world.writer.sid_ids
    of_item = {tuple(sid[item].tolist()): item for item in range(len(catalog))}
    asked = set()
    for step in range(3):
        batch = teacher.batch(step)
        items = run.world.trie.walk(batch.tokens, batch.mask.sum(1))
        for prompt in range(len(batch.prompts)):
            ids = batch.prompts.ids[prompt, : batch.prompts.length[prompt]].tolist()
            single = of_item[tuple(ids[1:])]
            asked.add(single)
            scores = teacher.scorer.scores(Ragged.from_lists([[single]]))[0]
            scores[single] = 0
            mine = batch.prompt_of == prompt
            taught = scores[items[mine].numpy()]
            np.testing.assert_allclose(batch.advantage[mine].numpy(), taught / taught.sum(), rtol=1e-4)
    assert len(asked) > 15


def test_a_step_is_drawn_alike_every_time(run: Sft) -> None:
    assert run.teacher is not None
    first, again, other = run.teacher.batch(1), run.teacher.batch(1), run.teacher.batch(2)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.advantage, again.advantage)
    assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)


def test_valid_and_test_items_do_not_move_the_teacher(run: Sft, config: RunConfig) -> None:
    """Another valid and test split leaves every score as it was."""
    assert run.teacher is not None
    shuffled = replace(run.world.dataset, valid=run.world.dataset.test, test=run.world.dataset.valid)
    world = replace(run.world, dataset=shuffled)
    other = type(run.teacher).make(config, world, run.rows)
    history = run.world.dataset.train.items
    np.testing.assert_array_equal(run.teacher.scorer.scores(history), other.scorer.scores(history))


def test_the_gradient_is_that_of_the_weighted_log_likelihood(run: Sft) -> None:
    assert run.teacher is not None
    run.policy.model.eval()
    run.policy.model.zero_grad()
    run.at = replace(run.at, step=4)
    reported = run.teach()
    found = [parameter.grad.clone() for parameter in run.policy.model.parameters() if parameter.grad is not None]
    run.policy.model.zero_grad()
    batch = run.teacher.batch(4)
    logp, _ = run.policy.logp(batch)
    per_token = (logp * batch.advantage[:, None]).sum() / (batch.advantage[:, None] * batch.mask).sum()
    (-0.7 * per_token).backward()
    assert reported == pytest.approx(-float(per_token.detach()), rel=1e-5)
    for mine, parameter in zip(found, run.policy.model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)


def test_items_of_the_history_get_negative_weights_where_unlikelihood_is_on(config: RunConfig, run: Sft) -> None:
    assert run.teacher is not None
    options = config.sft.teacher.model_copy(update={"unlikelihood": 6.0, "unlikely": 2})
    batch = replace(run.teacher, options=options).batch(5)
    items = run.world.trie.walk(batch.tokens, batch.mask.sum(1))
    for prompt in range(len(batch.prompts)):
        mine = batch.prompt_of == prompt
        weights, named = batch.advantage[mine], items[mine]
        assert float(weights[weights < 0].sum()) == pytest.approx(-6.0, rel=1e-5)
        assert float(weights[weights > 0].sum()) == pytest.approx(1.0, rel=1e-5)
        ids = batch.prompts.ids[prompt, : batch.prompts.length[prompt]].tolist()
        pushed_down = named[weights < 0].tolist()
        latest = run.world.writer.sid_ids[pushed_down[0]].tolist()
        assert ids[-len(latest) :] == latest
        assert 1 <= len(pushed_down) <= 2


def test_the_soft_target_loss_by_hand() -> None:
    logp = torch.tensor([[-1.0, -0.5], [-2.0, 0.0]], requires_grad=True)
    loss = soft_target_loss(logp, torch.tensor([0.25, -3.0]))
    assert float(loss.detach()) == pytest.approx(0.25 * 1.5 - 3 * math.log(1 - math.exp(-2)), rel=1e-5)
    loss.backward()
    odds = math.exp(-2) / (1 - math.exp(-2))
    torch.testing.assert_close(logp.grad, torch.tensor([[-0.25, -0.25], [3 * odds, 3 * odds]]))


def test_a_response_that_is_certain_gives_a_finite_loss() -> None:
    logp = torch.zeros(1, 3, requires_grad=True)
    loss = soft_target_loss(logp, torch.tensor([-1.0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logp.grad).all()  # type: ignore[arg-type]


def test_it_joins_after_its_share_of_the_steps(config: RunConfig) -> None:
    late = config.model_copy(
        update={
            "run": config.run.model_copy(update={"name": "late"}),
            "sft": config.sft.model_copy(update={"teacher": config.sft.teacher.model_copy(update={"start": 0.5})}),
        }
    )
    train_sft(late, silent)
    rows = metrics(late.folder / "sft")
    taught = ["sft/teacher_loss" in row for row in rows]
    assert taught == [place >= len(rows) / 2 for place in range(len(rows))]


def test_more_responses_than_items_are_refused(config: RunConfig, run: Sft) -> None:
    teacher = config.sft.teacher.model_copy(update={"responses": len(run.world.dataset.catalog) + 1})
    wrong = config.model_copy(update={"sft": config.sft.model_copy(update={"teacher": teacher})})
    with pytest.raises(UserError, match="the catalogue has"):
        Teacher.make(wrong, run.world, run.rows)


def test_a_step_of_histories_that_nobody_else_knows_is_left_out(run: Sft) -> None:
    class Ignorant:
        def scores(self, histories: Ragged, own: Sequences | None = None) -> np.ndarray:  # noqa: ARG002
            return np.zeros((len(histories), len(run.world.dataset.catalog)), np.float32)

    assert run.teacher is not None
    known = run.soft_targets
    run.soft_targets = Ahead(replace(run.teacher, scorer=Ignorant()).batch)
    try:
        assert run.teach() == 0
    finally:
        run.soft_targets = known


def test_the_next_items_of_a_history_are_not_whispered_to_it(run: Sft) -> None:
    """What a sequence itself added to the counts is out of its own soft targets."""
    assert run.teacher is not None
    asked = []

    class Watching:
        def scores(self, histories: Ragged, own: Sequences | None = None) -> np.ndarray:
            assert own is not None
            for row in range(len(histories)):
                whole = own.items[row].tolist()
                asked.append(whole[: whole.index(histories[row][-1]) + 1][-len(histories[row]) :])
                assert histories[row].tolist() == asked[-1] or len(set(whole)) < len(whole)
            return knowing.scorer.scores(histories, own)

    knowing = run.teacher
    replace(knowing, scorer=Watching()).batch(7)
    assert len(asked) == 12
