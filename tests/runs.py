"""A small prepared marketplace with SIDs, and configs of runs on it that last a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from recrl.config import RunConfig, check
from recrl.config_layers import merge
from recrl.data import dataset as datasets
from recrl.data.prepare import prepare
from recrl.evaluation.evaluate import Evaluation
from recrl.evaluation.results import EvaluationResult
from recrl.evaluation.subjects import Subject
from recrl.sids import codes
from recrl.sids.codes import with_suffixes

ITEMS = 60
MARKET = {"users": 150, "items": ITEMS, "interactions": 1350, "categories": 6, "groups": 3, "optimum_rows": 0}
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_world(folder: Path) -> Path:
    """``folder/data`` and ``folder/sids``: 150 users, 60 items, three levels of four codes, some suffixes."""
    prepare("synthetic", None, folder / "data", options=MARKET)
    dataset = datasets.load(folder / "data")
    random = np.random.default_rng(0).integers(0, 4, (ITEMS, 3)).astype(np.int32)
    (folder / "sids").mkdir()
    codes.save(with_suffixes(random, (4, 4, 4), {"dataset": dataset.meta["fingerprint"]}), folder / "sids")
    return folder


def run_config(world: Path, runs: Path, **sections: Any) -> RunConfig:
    """A config on ``write_world``'s folder; ``sections`` go on top of it."""
    values: dict[str, Any] = {
        "run": {"name": "tiny", "dir": str(runs), "threads": 1},
        "data": {"path": str(world / "data"), "history_limit": 6},
        "sid": {"path": str(world / "sids")},
        "model": {"preset": "tiny", "shape": SHAPE},
        "backend": {"device": "cpu", "dtype": "float32"},  # tolerances and exact figures are float32's
        "sft": {"epochs": 2, "batch_size": 32, "warmup_steps": 2, "lr": 0.003},
        "rl": {
            "steps": 4,
            "prompts_per_step": 16,
            "eval_every": 2,
            "max_ndcg_drop": 1.0,
            "rollout": {"kind": "beam", "group_size": 6},
        },
        "eval": {"beam_width": 20, "valid_beam_width": 10, "valid_examples": 40},
    }
    return check(merge(values, sections), "test")


def evaluated(subject: Subject, folder: Path) -> list[EvaluationResult]:
    """One model on test, as its own config says, without baselines."""
    return Evaluation.make(subject.config, "test", folder).model(subject)


def silent(step: int, steps: int, values: dict[str, float]) -> None:
    """A report that nobody reads."""


def metrics(stage: Path, *, timed: bool = False) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl``, without what a clock says unless ``timed``."""
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    if timed:
        return lines
    clocks = ("time_s", "timing_s/", "perf/")
    return [{key: value for key, value in line.items() if not key.startswith(clocks)} for line in lines]


def command(arguments: list[str]) -> None:
    """The command line in a process of its own."""
    from recrl.commands.main import main

    main(arguments)
