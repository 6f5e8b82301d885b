"""The whole path on one device, small: SFT, three kinds of RL, a run that is broken off and resumed, evaluation.

``python -m fake_npu.scenario WORLD FOLDER DEVICE`` leaves runs below FOLDER, and ``scenario.json`` with what no run
keeps. Parts are as many as needed to pass every module that makes or moves tensors.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runs import run_config, silent

from recrl.config import RunConfig
from recrl.evaluation.evaluate import Evaluation
from recrl.evaluation.recommend import best_subject, recommend
from recrl.evaluation.subjects import subjects
from recrl.run_data import load_data
from recrl.store import checkpoint
from recrl.training.rl import train_rl
from recrl.training.sft import train_sft

SFT = {
    "epochs": 2,
    "lr": 0.01,
    "ema_decay": 0.9,
    "gradient_checkpointing": True,
    "teacher": {"weight": 0.5, "prompts": 8, "responses": 4},
}
SEVERAL = {"steps": 2, "lr": 1e-3, "warmup_steps": 0, "prompts_per_step": 8, "mini_batches": 2, "eval_every": 1}
BEAM = {"kind": "beam", "group_size": 6}
SLATES = {
    "rollout": {"kind": "sample", "group_size": 6, "slate_size": 2},
    "rewards": [{"kind": "hit"}, {"kind": "valid_distinct"}],
    "signal": {"kind": "decoupled"},
    "objective": {"kind": "sage", "kl_beta": 0.05},
}
RL: dict[str, dict[str, Any]] = {
    "beam": {"rollout": BEAM, "objective": {"kind": "grpo", "kl_beta": 0.1}},
    "recast": {"rollout": BEAM, "signal": {"kind": "recast"}, "objective": {"kind": "grpo", "kl_beta": 0.1}},
    "slates": SLATES,
}


class BrokenOffError(Exception):
    """Raised in the middle of a run, as a stop from outside would be."""


def break_off(step: int, steps: int, _: dict[str, float]) -> None:
    if step == steps - 1:
        raise BrokenOffError


def sft_config(world: Path, folder: Path, device: str, **backend: Any) -> RunConfig:
    return run_config(world, folder, run={"name": "sft"}, backend={"device": device, **backend}, sft=SFT)


def rl_config(world: Path, folder: Path, device: str, name: str, options: dict[str, Any], **backend: Any) -> RunConfig:
    """RL that starts from this folder's SFT; ReCast's in the space of legal tokens."""
    start = {"init": str(checkpoint.best(folder / "sft" / "sft").model)}
    backend = {"device": device, "logprob_space": "legal" if name == "recast" else "raw", **backend}
    return run_config(world, folder, run={"name": name}, backend=backend, rl=SEVERAL | options | start)


def run(world: Path, folder: Path, device: str) -> dict[str, Any]:
    """Run everything; the metrics of an evaluation, and some recommendations."""
    sft = sft_config(world, folder, device)
    train_sft(sft, silent)
    half = {"device": device, "dtype": "bfloat16"}
    dropout = {"preset": "tiny", "dropout": 0.1}
    train_sft(run_config(world, folder, run={"name": "half"}, model=dropout, backend=half, sft={"epochs": 1}), silent)
    for name, options in RL.items():
        train_rl(rl_config(world, folder, device, name, options), silent)
    broken = rl_config(world, folder, device, "resumed", SLATES)
    with suppress(BrokenOffError):
        train_rl(broken, break_off)
    train_rl(broken, silent, resume=True)
    subject = subjects(folder / "beam" / "rl")[0]
    (result,) = Evaluation.make(subject.config, "test", folder / "evaluation").model(subject)
    history = " ".join(load_data(sft)[0].catalog.item_ids[:3])
    found = recommend(best_subject(folder / "beam"), history, 5)
    return {
        "history": history,
        "metrics": {name: metric.value for name, metric in result.metrics.items()},
        "recommended": [asdict(one) for one in found],
    }


if __name__ == "__main__":
    into = Path(sys.argv[2])
    (into / "scenario.json").write_text(json.dumps(run(Path(sys.argv[1]), into, sys.argv[3])))
