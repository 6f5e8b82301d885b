"""RL on a small marketplace: the step against a computation by hand, what is skipped, and when a run stops."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from groups_of import context
from runs import metrics, run_config, silent
from torch import Tensor, nn

from recrl.data import dataset as datasets
from recrl.errors import UserError
from recrl.groups.packed import PackedGroups, pack_active
from recrl.groups.rollout import RolloutGroups, Signal
from recrl.models.checkpoint import load_folder
from recrl.store import checkpoint
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl, train_rl
from recrl.training.validation import Progress, Validation

KL = {"objective": {"kind": "grpo", "kl_beta": 0.1}}
ALL_GROUPS = {"kind": "group_zscore", "drop_flat": False}
SEVERAL = {"epochs": 2, "mini_batches": 2}


def rl_config(world: Path, trained: Path, runs: Path, **options: Any) -> Any:
    return run_config(world, runs, rl={"init": str(trained), "lr": 1e-3, "warmup_steps": 0, **options})


def rl_of(world: Path, trained: Path, runs: Path, **options: Any) -> Rl:
    config = rl_config(world, trained, runs, **options)
    return Rl(config, StageFolder(config.folder / "rl"))


def flat_gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def first_batch(rl: Rl) -> PackedGroups:
    groups = rl.rollout(rl.environment.prompts(0), seed=1)
    rewards = rl.method.reward(groups, rl.reward_context)
    return pack_active(
        rl.method.signal.run(groups, rewards, torch.ones(1), rl.method.signal_options, context()), rl.policy.ops
    )


class Gradients:
    """Keeps the gradient of every optimiser step."""

    def __init__(self, rl: Rl, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Tensor] = []
        step = rl.optimizer.step

        def kept() -> None:
            self.seen.append(flat_gradient(rl.policy.model).clone())
            step()

        monkeypatch.setattr(rl.optimizer, "step", kept)


def by_hand(rl: Rl, trained: Path, seed: int) -> tuple[Tensor, float]:
    """Gradient and mean reward of the first step, row by row on the stock model."""
    model, _ = load_folder(trained)
    groups = rl.rollout(rl.environment.prompts(0), seed)
    hits = groups.hits.float()
    rows: list[Tensor] = []
    for prompt in range(len(hits)):
        if hits[prompt].min() == hits[prompt].max():
            continue
        advantage = (hits[prompt] - hits[prompt].mean()) / (hits[prompt].std() + 1e-6)
        head = groups.prompts.ids[prompt, : groups.prompts.length[prompt]]
        for response in range(hits.shape[1]):
            tokens = groups.tokens[prompt, response][groups.mask[prompt, response]]
            logits = model(torch.cat([head, tokens])[None]).logits[0, len(head) - 1 : -1]
            logp = logits.log_softmax(-1).gather(1, tokens[:, None])
            rows.append(-((logp - logp.detach()).exp() * advantage[response]).mean())
    torch.stack(rows).mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return flat_gradient(model), float(hits.mean())


def test_a_step_is_grpo_on_unpacked_rows(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rl = rl_of(world, trained, tmp_path)
    monkeypatch.setattr("recrl.training.rl.seed_of", lambda *_: 5)
    expected, reward = by_hand(rl, trained, seed=5)
    gradients = Gradients(rl, monkeypatch)
    values = rl.step()
    (got,) = gradients.seen
    scale = expected.abs().max()
    torch.testing.assert_close(got / scale, expected / scale, atol=2e-5, rtol=1e-4)
    assert 0 < values["reward/mean"] == pytest.approx(reward)
    assert values["actor/ppo_kl"] == 0
    assert values["actor/optimizer_steps"] == 1
    assert values["actor/lr"] == 1e-3
    assert "timing_s/old_log_prob" not in values
    assert "timing_s/ref" not in values


def test_a_rewards_weight_counts_in_the_advantages_and_in_the_mean(world: Path, trained: Path, tmp_path: Path) -> None:
    rewards = [{"kind": "hit", "weight": 3.0}, {"kind": "sid_level", "weight": -0.5}]
    options = {"kind": "group_zscore", "scale_by_std": False}
    rl = rl_of(world, trained, tmp_path, rewards=rewards, signal=options)
    signal, seen = rl.method.signal, []

    def watched(groups: RolloutGroups, rewards: Tensor, *rest: Any) -> Signal:
        made: Signal = signal.run(groups, rewards, *rest)
        seen.append((3 * rewards[..., 0] - 0.5 * rewards[..., 1], made.advantage))
        return made

    rl.method = replace(rl.method, signal=replace(signal, run=watched))
    values = rl.step()
    ((total, advantage),) = seen
    assert (total > 1).any()  # some hit
    torch.testing.assert_close(advantage, total - total.mean(1, keepdim=True))
    assert values["reward/mean"] == pytest.approx(float(total.mean()))


def test_skipping_the_old_log_probability_changes_nothing(world: Path, trained: Path, tmp_path: Path) -> None:
    rl = rl_of(world, trained, tmp_path)
    batch = first_batch(rl)
    gradients = []
    with torch.no_grad():
        old = rl.all_logps(rl.policy, batch)
    for given in (batch, batch.with_logps(old, None)):
        loss, _ = rl.backward(given)
        gradients.append((loss, flat_gradient(rl.policy.model).clone()))
        rl.optimizer.zero_grad()
    assert rl.single_step
    assert gradients[0][0] == pytest.approx(gradients[1][0], abs=1e-6)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], atol=1e-6, rtol=1e-4)


def test_an_update_goes_on_from_the_prompts_that_its_rollout_read(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number, options in enumerate(({}, {}, {"token_budget": 64})):
        config = rl_config(world, trained, tmp_path / str(number), signal=ALL_GROUPS)
        config = config.model_copy(update={"backend": config.backend.model_copy(update=options)})
        rl = Rl(config, StageFolder(config.folder / "rl"))
        given = []
        backward = rl.backward

        def spied(
            mini: PackedGroups, read: Any, given: list[Any] = given, backward: Any = backward
        ) -> tuple[float, dict[str, float]]:
            given.append(read is not None)
            loss: tuple[float, dict[str, float]] = backward(mini, read)
            return loss

        monkeypatch.setattr(rl, "backward", spied)
        if number == 1:
            monkeypatch.setattr(Rl, "keeps_prompts", False)
        gradients = Gradients(rl, monkeypatch)
        values = rl.step()
        monkeypatch.undo()
        found.append((given, gradients.seen[0], values["actor/loss"], values["actor/entropy"]))
        assert rl.kept is None  # the graph lives no longer than its step
    assert [given for given, *_ in found] == [[True], [False], [False]]
    for _, gradient, loss, entropy in found[1:]:
        torch.testing.assert_close(gradient, found[0][1], atol=1e-6, rtol=1e-4)
        assert (loss, entropy) == pytest.approx(found[0][2:], abs=1e-6)


def test_several_optimiser_steps_a_rollout_read_their_prompts_themselves(
    world: Path, trained: Path, tmp_path: Path
) -> None:
    assert rl_of(world, trained, tmp_path).keeps_prompts
    assert not rl_of(world, trained, tmp_path, **SEVERAL).keeps_prompts


def test_in_bfloat16_an_update_reads_its_prompts_itself(world: Path, trained: Path, tmp_path: Path) -> None:
    config = rl_config(world, trained, tmp_path)
    config = config.model_copy(update={"backend": config.backend.model_copy(update={"dtype": "bfloat16"})})
    assert not Rl(config, StageFolder(config.folder / "rl")).keeps_prompts


def test_any_token_budget_gives_the_same_gradient_and_log_probabilities(
    world: Path, trained: Path, tmp_path: Path
) -> None:
    found = []
    for budget in (100_000, 64):
        rl = rl_of(world, trained, tmp_path, **KL)
        batch = first_batch(rl)
        rl.config = replace_budget(rl, budget)
        batch = rl.with_logps(batch)
        loss, report = rl.backward(batch)
        found.append((loss, report, flat_gradient(rl.policy.model), batch.logp_ref))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4, abs=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-3, abs=1e-5)
    torch.testing.assert_close(found[0][2], found[1][2], atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(found[0][3], found[1][3], atol=1e-5, rtol=1e-5)


def replace_budget(rl: Rl, budget: int) -> Any:
    return rl.config.model_copy(update={"backend": rl.config.backend.model_copy(update={"token_budget": budget})})


def test_several_optimiser_steps_a_rollout_keep_its_log_probabilities(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rl = rl_of(world, trained, tmp_path, lr=5e-3, **SEVERAL)
    seen: list[Tensor] = []
    backward = rl.backward

    def watched(mini: PackedGroups, read: Any = None) -> Any:
        assert read is None  # the weights move between the optimiser steps
        assert mini.logp_old is not None
        seen.append(mini.logp_old)
        return backward(mini)

    monkeypatch.setattr(rl, "backward", watched)
    values = rl.step()
    assert values["actor/optimizer_steps"] == 4
    assert values["actor/ppo_kl"] != 0  # later steps are off the policy that made the rollout
    assert values["timing_s/old_log_prob"] > 0
    for epoch in (seen[:2], seen[2:]):  # each pass over the rollout sees every row once
        rows = torch.cat(epoch)
        assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, torch.cat(seen[:2]).tolist()))


def test_every_pass_over_a_rollout_shuffles_its_prompts_anew(world: Path, trained: Path, tmp_path: Path) -> None:
    rl = rl_of(world, trained, tmp_path, **SEVERAL)

    def passed(epoch: int) -> list[list[int]]:
        return [part.tolist() for part in rl.mini_batches(16, epoch)]

    assert sorted(itertools.chain(*passed(0))) == list(range(16))
    assert passed(0) == passed(0) != passed(1)
    first = passed(0)
    rl.at = replace(rl.at, step=1)
    assert passed(0) != first


def test_learning_rates_follow_optimiser_steps(world: Path, trained: Path, tmp_path: Path) -> None:
    rl = rl_of(world, trained, tmp_path, steps=5, **SEVERAL)
    assert rl.lr(0) == 1e-3
    rl.at = replace(rl.at, step=2)
    assert rl.lr(2) == pytest.approx(0.5e-3)  # step 10 of 20


def test_the_reference_is_there_only_where_it_weighs_something(world: Path, trained: Path, tmp_path: Path) -> None:
    without = rl_of(world, trained, tmp_path)
    assert without.reference is None
    rl = rl_of(world, trained, tmp_path, **KL)
    first = rl.step()
    assert first["actor/kl_loss"] == pytest.approx(0, abs=1e-6)  # the reference is the start
    rl.at = replace(rl.at, step=1)
    second = rl.step()
    assert second["actor/kl_loss"] > 1e-5
    assert second["timing_s/ref"] > 0
    assert rl.reference is not None
    start, _ = load_folder(trained)
    for name, parameter in rl.reference.model.named_parameters():
        assert torch.equal(parameter, start.get_parameter(name))
        assert not parameter.requires_grad


def test_a_step_without_active_rows_changes_no_weight(world: Path, trained: Path, tmp_path: Path) -> None:
    rl = rl_of(world, trained, tmp_path)
    before = copy.deepcopy(rl.policy.model.state_dict())
    never = replace(rl.method.rewards[0][0], run=lambda groups, *_: torch.zeros(groups.exists.shape))
    rl.method = replace(rl.method, rewards=((never, rl.method.rewards[0][1]),))
    values = rl.step()
    assert values["signal/active_rows"] == 0
    assert values["tokens/actor_effective"] == 0
    assert "actor/loss" not in values
    assert all(torch.equal(before[name], value) for name, value in rl.policy.model.state_dict().items())


def test_a_pass_shows_every_prompt_at_most_once_and_draws_targets_anew(
    world: Path, trained: Path, tmp_path: Path
) -> None:
    rl = rl_of(world, trained, tmp_path)
    per_pass = rl.environment.source.per_pass // 16
    keys = []
    for step in range(2 * per_pass):
        prompts = rl.environment.prompts(step)
        assert len(prompts) == 16
        keys.append(
            [(*row.tolist(), int(item)) for row, item in zip(prompts.ids, prompts.targets.items[:, 0], strict=True)]
        )
    table = rl.environment.source.table(0)
    assert rl.environment.source.per_pass == len(table) == len(rl.environment.source.table(1))
    assert not np.array_equal(table.targets.items, rl.environment.source.table(1).targets.items)
    assert keys[0] != keys[per_pass]


def test_targets_last_asks_for_the_last_training_item_alone(world: Path, trained: Path, tmp_path: Path) -> None:
    rl = rl_of(world, trained, tmp_path, targets="last")
    train = rl.world.dataset.train
    expected = [int(row[-1]) for row in train.items if len(row) > 1]
    assert rl.environment.source.table(0).targets.items[:, 0].tolist() == expected
    assert rl.environment.source.table(3).targets.items[:, 0].tolist() == expected


def falling(*values: float) -> Any:
    """Validations that give these values in turn, whatever the model."""
    left: Iterator[float] = iter(values)

    def score(*_: object) -> dict[str, float]:
        return {"valid/hr@10": 0.5, "valid/ndcg@10": next(left)}

    return score


def test_the_start_is_validated_and_a_fall_below_it_stops_the_run(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = rl_config(world, trained, tmp_path, steps=9, max_ndcg_drop=0.1)
    monkeypatch.setattr(Validation, "score", falling(0.50, 0.46, 0.44))
    status = train_rl(config, silent)
    lines = metrics(config.folder / "rl")
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["valid/ndcg@10"] for line in lines if "valid/ndcg@10" in line] == [0.50, 0.46, 0.44]
    assert status["state"] == "stopped_early"
    assert "fell from 0.5000 to 0.4400" in status["reason"]
    assert (status["best_step"], status["start_value"], status["best_value"]) == (0, 0.5, 0.5)
    assert json.loads((config.folder / "rl" / "status.json").read_text())["state"] == "stopped_early"
    best = checkpoint.best(config.folder / "rl")
    assert best.state["at"]["step"] == 0
    assert (best.model / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()

    again = train_rl(config, silent, resume=True)  # nothing is left of ``falling``: a validation would raise
    assert again == status
    assert metrics(config.folder / "rl") == lines


def test_no_rise_for_some_validations_stops_the_run(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = rl_config(world, trained, tmp_path, steps=9, eval_every=1, patience=2, keep=1)
    monkeypatch.setattr(Validation, "score", falling(0.5, 0.6, 0.6, 0.59))
    status = train_rl(config, silent)
    assert status["state"] == "stopped_early"
    assert "2 validations" in status["reason"]
    assert (status["best_step"], status["best_value"]) == (1, 0.6)
    left = [path.name for path in checkpoint.steps(config.folder / "rl" / "checkpoints")]
    assert left == ["step-000001", "step-000003"]


def test_a_run_to_the_end_validates_its_last_step(world: Path, trained: Path, tmp_path: Path) -> None:
    config = rl_config(world, trained, tmp_path, steps=3)
    status = train_rl(config, silent)
    lines = metrics(config.folder / "rl")
    assert status["state"] == "finished"
    assert [line["step"] for line in lines if "valid/ndcg@10" in line] == [0, 2, 3]
    assert lines[1]["tokens/actor_effective"] < 16 * (1 + 6 * 4) + 16 * 6 * 4  # padding is not counted


def test_progress_by_hand() -> None:
    progress = Progress()
    for step, value in enumerate((0.5, 0.4, 0.6, 0.6)):
        progress = progress.after(step, value)
    assert progress == Progress(best=0.6, best_step=2, start=0.5, last=0.6, bad=1)
    assert progress.out_of_patience(1)
    assert not progress.out_of_patience(2)
    assert not progress.out_of_patience(0)
    low = progress.after(4, 0.45)
    assert low.fell_below(0.05)
    assert not low.fell_below(0.1)  # .45 is no more than a tenth below .5


def test_a_run_without_a_start_or_without_prompts_is_the_users_error(
    world: Path, trained: Path, tmp_path: Path
) -> None:
    config = run_config(world, tmp_path)
    with pytest.raises(UserError, match="no checkpoint below"):
        train_rl(config, silent)
    short = datasets.load(world / "data")
    train = replace(short.train, items=short.train.items.tail(1))
    folder = tmp_path / "data"
    folder.mkdir()
    datasets.save(replace(short, train=train), folder)
    meta = json.loads((folder / "dataset.json").read_text())
    sids = tmp_path / "sids"
    sids.mkdir()
    for path in (world / "sids").iterdir():
        (sids / path.name).write_bytes(path.read_bytes())
    described = json.loads((sids / "sid.json").read_text()) | {"dataset": meta["fingerprint"]}
    (sids / "sid.json").write_text(json.dumps(described))
    config = run_config(world, tmp_path, rl={"init": str(trained)}, data={"path": str(folder)}, sid={"path": str(sids)})
    with pytest.raises(UserError, match="RL has nothing to ask for"):
        train_rl(config, silent)
    assert not (tmp_path / "tiny").exists()


def test_recast_ranks_misses_by_their_text(world: Path, trained: Path, tmp_path: Path) -> None:
    rl = rl_of(world, trained, tmp_path, signal={"kind": "recast", "struct_score": "embed_cos"})
    assert rl.step()["signal/active_rows"] > 0
    vectors = rl.text_vectors()
    assert vectors.shape[0] == len(rl.world.dataset.catalog)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-5)
