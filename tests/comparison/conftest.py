"""A world with an SFT, and comparisons on it that last some seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import run_config, silent, write_world

from recrl.training.sft import train_sft


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file whose run has a finished SFT; its [rl] names a method of its own."""
    folder = tmp_path_factory.mktemp("compared")
    method = {"rollout": {"kind": "sample", "group_size": 6}, "objective": {"kind": "gspo"}, "mini_batches": 2}
    run = run_config(
        write_world(folder),
        folder / "runs",
        sft={"epochs": 3, "lr": 0.01},
        rl=method | {"steps": 4, "lr": 0.007, "recipe": "gspo"},
        eval={"bootstrap": 20, "k": [1, 5, 10]},
    )
    train_sft(run, silent)
    file = folder / "run.toml"
    file.write_text(run.to_toml())
    return file
