"""SFT on a small marketplace: gradients, learning, stopping, and the run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import metrics, run_config, silent
from torch import Tensor

from recrl.device.cpu import cpu_name
from recrl.errors import UserError
from recrl.models.checkpoint import load_folder
from recrl.store import checkpoint
from recrl.store.run_folder import StageFolder
from recrl.training.sft import Sft, train_sft


def sft_of(world: Path, tmp_path: Path, **sections: Any) -> Sft:
    config = run_config(world, tmp_path, **sections)
    return Sft(config, StageFolder(config.folder / "sft"))


def gradient(sft: Sft) -> tuple[Tensor, float]:
    """Of the first batch, before clipping; and its loss."""
    rows = sft.rows.epoch(0)
    values = sft.train_step(rows.select(sft.rows.batches(0, rows)[0]), lr=0.0)
    return torch.cat([parameter.grad.flatten() for parameter in sft.policy.model.parameters()]), values["sft/loss"]


@pytest.mark.parametrize("token_budget", [64, 200, 500])
def test_micro_batches_give_the_same_gradient(world: Path, tmp_path: Path, token_budget: int) -> None:
    whole, loss = gradient(sft_of(world, tmp_path, sft={"clip_grad": 1e9}))
    sft = sft_of(world, tmp_path, sft={"clip_grad": 1e9}, backend={"token_budget": token_budget})
    rows = sft.rows.epoch(0)
    assert len(rows.select(sft.rows.batches(0, rows)[0]).micro_batches(token_budget)) > 1
    parts, same_loss = gradient(sft)
    assert same_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)


def test_gradient_checkpointing_gives_the_same_gradient_under_dropout(world: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": {"dropout": 0.3}}
    stored = sft_of(world, tmp_path, **options)
    computed = sft_of(world, tmp_path, **options, sft={"gradient_checkpointing": True})
    assert computed.policy.model.is_gradient_checkpointing
    (left, first), (right, second) = gradient(stored), gradient(computed)
    assert first == pytest.approx(second, rel=1e-6)
    torch.testing.assert_close(left, right, atol=1e-7, rtol=1e-5)


def test_bfloat16_runs_and_keeps_float32_weights(world: Path, tmp_path: Path) -> None:
    exact, loss = gradient(sft_of(world, tmp_path))
    sft = sft_of(world, tmp_path, backend={"dtype": "bfloat16"})
    rough, near = gradient(sft)
    assert near == pytest.approx(loss, rel=0.02)
    assert torch.nn.functional.cosine_similarity(exact, rough, dim=0) > 0.98
    assert all(parameter.dtype == torch.float32 for parameter in sft.policy.model.parameters())


def test_the_loss_is_the_mean_over_scored_tokens_of_the_stock_model(world: Path, tmp_path: Path) -> None:
    sft = sft_of(world, tmp_path)
    rows = sft.rows.epoch(0)
    batch = rows.select(sft.rows.batches(0, rows)[0])
    sft.policy.save_pretrained(tmp_path / "model")
    stock, _ = load_folder(tmp_path / "model")
    total, tokens = 0.0, 0
    for number in range(len(batch)):
        ids = torch.from_numpy(batch.ids[number]).long()
        logp = stock(ids[None]).logits[0].log_softmax(-1)
        first = int(batch.first_scored[number])
        total -= float(logp[first - 1 : -1].gather(1, ids[first:, None]).sum().detach())
        tokens += len(ids) - first
    values = sft.train_step(batch, lr=0.0)
    assert values["sft/loss"] == pytest.approx(total / tokens, rel=1e-4)
    assert values["sft/tokens"] == tokens


def test_a_few_steps_lower_the_loss_and_the_run_is_on_disk(world: Path, tmp_path: Path) -> None:
    config = run_config(world, tmp_path, sft={"epochs": 3})
    seen: list[int] = []
    status = train_sft(config, lambda step, *_: seen.append(step))
    stage = config.folder / "sft"
    lines = metrics(stage)
    losses = [line["sft/loss"] for line in lines]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.3
    assert seen == [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["step"] for line in lines if "valid/ndcg@10" in line] == [len(lines) // 3 * part for part in (1, 2, 3)]
    assert status["state"] == "finished"
    on_disk = json.loads((stage / "status.json").read_text())
    assert {key: on_disk[key] for key in status} == status
    best = checkpoint.best(stage)
    assert best.state["at"]["step"] == status["best_step"]
    assert (stage / "latest").resolve() == checkpoint.steps(stage / "checkpoints")[-1].resolve()
    assert {"timing_s/step", "perf/mfu/actor", "perf/throughput"} <= metrics(stage, timed=True)[0].keys()


def test_a_run_that_does_not_get_better_stops_and_says_so(world: Path, tmp_path: Path) -> None:
    config = run_config(world, tmp_path, sft={"epochs": 50, "lr": 1e-12, "eval_every": 1, "patience": 2})
    status = train_sft(config, silent)
    assert status["state"] == "stopped_early"
    assert "2 validations" in status["reason"]
    assert status["best_step"] == 1
    assert len(metrics(config.folder / "sft")) == 3
    again = train_sft(config, silent, resume=True)
    assert again == status
    assert len(metrics(config.folder / "sft")) == 3


def test_what_is_saved_is_the_average_that_was_validated(world: Path, tmp_path: Path) -> None:
    config = run_config(world, tmp_path, sft={"epochs": 1, "ema_decay": 0.9})
    train_sft(config, silent)
    found = checkpoint.newest(config.folder / "sft" / "checkpoints")
    assert found is not None
    model, _ = load_folder(found.model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, found.read(f"average.{name}")[:])
    assert not torch.equal(found.read("average.model.norm.weight")[:], found.read("model.model.norm.weight")[:])


def test_the_run_says_what_it_was_computed_on(world: Path, tmp_path: Path) -> None:
    config = run_config(world, tmp_path, sft={"epochs": 1})
    train_sft(config, silent)
    said = json.loads((config.folder / "sft" / "environment.json").read_text())
    assert said["threads"] == 1  # run.threads
    assert said["cpu"] == cpu_name() != ""


def test_a_finished_run_is_neither_overwritten_nor_mixed_with_another(world: Path, tmp_path: Path) -> None:
    config = run_config(world, tmp_path, sft={"epochs": 1})
    train_sft(config, silent)
    before = metrics(config.folder / "sft")
    with pytest.raises(UserError, match="exists already"):
        train_sft(config, silent)
    other = run_config(world, tmp_path, sft={"epochs": 1, "lr": 0.5})
    with pytest.raises(UserError, match="another config") as caught:
        train_sft(other, silent, resume=True)
    assert "sft.lr was 0.003 and is 0.5" in caught.value.why
    wider = run_config(world, tmp_path, sft={"epochs": 1}, model={"shape": {"hidden_size": 16}})
    with pytest.raises(UserError, match="another config"):
        train_sft(wider, silent, resume=True)
    train_sft(run_config(world, tmp_path, sft={"epochs": 1}, rl={"steps": 7}), silent, resume=True)
    no_memory = {"weight": 0.0, "scorer": "item_knn", "hidden_size": 32}  # says nothing
    train_sft(run_config(world, tmp_path, sft={"epochs": 1}, memory=no_memory), silent, resume=True)
    slates = run_config(world, tmp_path, sft={"epochs": 1}, rl={"tasks": {"slate": 1.0}})  # measured by other lists
    with pytest.raises(UserError, match="another config"):
        train_sft(slates, silent, resume=True)
    assert metrics(config.folder / "sft") == before
    train_sft(other, silent, overwrite=True)
    assert metrics(config.folder / "sft")[-1]["sft/lr"] > before[-1]["sft/lr"]


@pytest.mark.parametrize("left", [(), ("checkpoints",), ("checkpoints", "environment.json", ".config.toml.tmp")])
def test_a_start_that_was_killed_is_started_anew(world: Path, tmp_path: Path, left: tuple[str, ...]) -> None:
    config = run_config(world, tmp_path, sft={"epochs": 1})
    stage = config.folder / "sft"
    stage.mkdir(parents=True)
    for name in left:
        (stage / name).mkdir() if name == "checkpoints" else (stage / name).write_text("")
    assert train_sft(config, silent, resume=True)["state"] == "finished"


def test_somebody_elses_folder_is_left_alone(world: Path, tmp_path: Path) -> None:
    config = run_config(world, tmp_path)
    stage = config.folder / "sft"
    stage.mkdir(parents=True)
    (stage / "thesis.txt").write_text("dear")
    for resume in (False, True):
        with pytest.raises(UserError, match="exists already"):
            train_sft(config, silent, resume=resume)
    assert (stage / "thesis.txt").read_text() == "dear"
