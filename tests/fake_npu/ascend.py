"""A step of RL through the Ascend kernels, in Triton's interpreter: ``python -m fake_npu.ascend WORLD FOLDER``.

Prints the metrics of the step.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from runs import run_config

from recrl.kernels import registry
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl

SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
RL = {
    "steps": 1,
    "prompts_per_step": 2,
    "start": "base",
    "rollout": {"kind": "beam", "group_size": 3},
    "signal": {"kind": "recast"},
    "objective": {"kind": "sage"},
}
OPS = ("linear_logp", "gmean_ratio", "boundary_select", "pack_active", "prefix_attention")


def step(world: Path, folder: Path, device: str, kernels: dict[str, str]) -> dict[str, float]:
    """The metrics of the first step, without what a clock says."""
    backend = {"device": device, "kernels": kernels}
    model = {"preset": "tiny", "shape": SHAPE}
    config = run_config(world, folder, backend=backend, model=model, rl=RL, data={"history_limit": 2})
    values = Rl(config, StageFolder(folder / "rl")).step()
    return {name: value for name, value in values.items() if not name.startswith(("timing_s/", "perf/"))}


if __name__ == "__main__":
    # The interpreter takes the place of Ascend's compiler, so what brings one need not be there.
    registry.KERNELS = {op: tuple(replace(row, needs=()) for row in rows) for op, rows in registry.KERNELS.items()}
    print(json.dumps(step(Path(sys.argv[1]), Path(sys.argv[2]), "npu", dict.fromkeys(OPS, "ascend"))))
