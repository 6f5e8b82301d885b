"""A step of RL with every rollout, reward, signal and objective that there is, on one device.

``python -m fake_npu.parts WORLD MODEL FOLDER DEVICE`` leaves ``parts.json`` in FOLDER: the metrics by the part's name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runs import run_config

from recrl.errors import ConfigError
from recrl.method import Method
from recrl.objectives import OBJECTIVES
from recrl.rewards import REWARDS
from recrl.rollout import ROLLOUTS
from recrl.signals import SIGNALS
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl

BASE: dict[str, Any] = {
    "mini_batches": 2,
    "prompts_per_step": 8,
    "environment": {"kind": "market", "reveal_next": True},  # gives what any part needs
    "rollout": {"kind": "beam", "group_size": 4},
    "rewards": [{"kind": "hit"}, {"kind": "sid_level"}],
    "signal": {"kind": "group_zscore"},
    "objective": {"kind": "grpo", "kl_beta": 0.1},
}
SLATES = {"rollout": {"kind": "sample", "group_size": 4, "slate_size": 2}}
TRIES = 4
"""Steps at most until a signal finds rows to train on: a step's few prompts may all miss."""


def sections() -> Iterator[tuple[str, dict[str, Any]]]:
    """Names, and what takes the base's place; a part that refuses single items is tried on slates."""
    for kind in ROLLOUTS:
        yield f"rollout {kind}", {"rollout": {"kind": kind, "group_size": 4}}
    for kind in REWARDS:
        yield f"reward {kind}", {"rewards": [{"kind": "hit"}, {"kind": kind}]}
    for kind in SIGNALS:
        yield f"signal {kind}", {"signal": {"kind": kind}}
    for kind in OBJECTIVES:
        yield f"objective {kind}", {"objective": {"kind": kind}}


def run(world: Path, model: Path, folder: Path, device: str) -> dict[str, dict[str, float]]:
    """The metrics of the first step of every part that trained on anything."""
    backend = {"device": device}
    base = BASE | {"init": str(model)}
    rl = Rl(run_config(world, folder, backend=backend, rl=base), StageFolder(folder / "rl"))
    found = {}
    for name, change in sections():
        config = run_config(world, folder, backend=backend, rl=base | change)
        try:
            method = Method.make(config.rl)
        except ConfigError:
            config = run_config(world, folder, backend=backend, rl=base | SLATES | change)
            method = Method.make(config.rl)
        rl.config, rl.method, rl.signal_state, rl.objective_state = config, method, {}, {}
        for _ in range(TRIES):
            values = rl.step()
            if values["signal/active_rows"] > 0:
                break
        found[name] = {key: value for key, value in values.items() if not key.startswith(("timing_s/", "perf/"))}
    return found


if __name__ == "__main__":
    into = Path(sys.argv[3])
    (into / "parts.json").write_text(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]), into, sys.argv[4])))
