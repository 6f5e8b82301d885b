"""The arithmetic that ``backend.dtype = "auto"`` chose: a run computes in it, records it and resumes with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runs import metrics, run_config, silent

from recrl.config import RunConfig
from recrl.device import matmul_speed
from recrl.errors import UserError
from recrl.evaluation.subjects import subjects
from recrl.run_data import load_run_data
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl, train_rl
from recrl.training.sft import train_sft

FAST, SLOW = 0.25, 9.0


class BrokenOffError(Exception):
    """Raised in the middle of a run, as a stop from outside would be."""


def break_off(step: int, steps: int, _: dict[str, float]) -> None:
    if step == steps - 2:
        raise BrokenOffError


def measures(monkeypatch: pytest.MonkeyPatch, bfloat16_time: float) -> None:
    """Let bfloat16's products take so many times as long as float32's."""
    monkeypatch.setattr(matmul_speed, "bfloat16_time", lambda _: bfloat16_time)


def rl_config(world: Path, trained: Path, runs: Path, dtype: str = "auto") -> RunConfig:
    options: dict[str, Any] = {"init": str(trained), "lr": 1e-3, "warmup_steps": 0, "checkpoint_every": 1}
    return run_config(world, runs, backend={"dtype": dtype}, rl=options)


def recorded(config: RunConfig, stage: str = "rl") -> str:
    found: str = json.loads((config.folder / stage / "environment.json").read_text())["dtype"]
    return found


@pytest.mark.parametrize(("bfloat16_time", "chosen"), [(FAST, "bfloat16"), (SLOW, "float32")])
def test_all_of_a_run_computes_in_what_auto_chose(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bfloat16_time: float, chosen: str
) -> None:
    measures(monkeypatch, bfloat16_time)
    config = rl_config(world, trained, tmp_path)
    config = config.model_copy(update={"rl": config.rl.model_copy(update={"steps": 1})})
    rl = Rl(config, StageFolder(config.folder / "rl"))
    assert (rl.world.dtype, rl.policy.dtype, rl.meter._dtype) == (chosen, chosen, chosen)
    assert rl.keeps_prompts == (chosen == "float32")
    train_rl(config, silent)
    assert recorded(config) == chosen


def test_where_bfloat16_is_slow_a_run_with_auto_is_the_run_in_float32(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures(monkeypatch, SLOW)
    weights = []
    for dtype in ("auto", "float32"):
        config = run_config(world, tmp_path / dtype, backend={"dtype": dtype}, sft={"epochs": 1})
        train_sft(config, silent)
        weights.append((config.folder / "sft" / "latest" / "model" / "model.safetensors").read_bytes())
        assert recorded(config, "sft") == "float32"
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("first", "then", "chosen"), [(SLOW, FAST, "float32"), (FAST, SLOW, "bfloat16")])
def test_a_resumed_run_keeps_what_it_began_with(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: float, then: float, chosen: str
) -> None:
    whole = rl_config(world, trained, tmp_path / "whole", chosen)
    train_rl(whole, silent)
    config = rl_config(world, trained, tmp_path / "resumed")
    measures(monkeypatch, first)
    with pytest.raises(BrokenOffError):
        train_rl(config, break_off)
    measures(monkeypatch, then)
    train_rl(config, silent, resume=True)
    assert recorded(config) == chosen
    assert metrics(config.folder / "rl") == metrics(whole.folder / "rl")
    trainers = [run.folder / "rl" / "latest" / "trainer.safetensors" for run in (config, whole)]
    assert trainers[0].read_bytes() == trainers[1].read_bytes()


def test_a_resumed_run_may_name_what_auto_chose_and_nothing_else(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures(monkeypatch, SLOW)
    train_rl(rl_config(world, trained, tmp_path), silent)
    train_rl(rl_config(world, trained, tmp_path, "float32"), silent, resume=True)
    with pytest.raises(UserError, match="another config") as caught:
        train_rl(rl_config(world, trained, tmp_path, "bfloat16"), silent, resume=True)
    assert "backend.dtype was 'float32'" in caught.value.why


def test_overwriting_measures_anew(world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = rl_config(world, trained, tmp_path)
    for bfloat16_time, chosen in ((SLOW, "float32"), (FAST, "bfloat16")):
        measures(monkeypatch, bfloat16_time)
        train_rl(config, silent, overwrite=True)
        assert recorded(config) == chosen


def test_a_record_that_is_gone_is_told_and_not_measured_again(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures(monkeypatch, SLOW)
    config = rl_config(world, trained, tmp_path)
    train_rl(config, silent)
    (config.folder / "rl" / "environment.json").unlink()
    with pytest.raises(UserError, match=r"can't read .*environment\.json") as caught:
        train_rl(config, silent, resume=True)
    assert "the arithmetic that the run began with" in caught.value.why


def test_a_run_of_before_there_was_a_choice_goes_on_in_float32(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = rl_config(world, trained, tmp_path, "float32")
    train_rl(config, silent)
    file = config.folder / "rl" / "environment.json"
    kept = json.loads(file.read_text())
    del kept["dtype"]
    file.write_text(json.dumps(kept))
    measures(monkeypatch, FAST)
    assert train_rl(rl_config(world, trained, tmp_path), silent, resume=True)["state"] == "finished"


def test_evaluation_on_another_machine_takes_what_is_fast_there(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures(monkeypatch, FAST)
    config = rl_config(world, trained, tmp_path)
    train_rl(config, silent)
    measures(monkeypatch, SLOW)
    (subject,) = subjects(config.folder / "rl")
    _, policy = load_run_data(subject.config, subject.model)
    assert policy.dtype == "float32"
