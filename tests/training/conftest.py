"""One small prepared world, and a model trained on it, for all tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import run_config, silent, write_world

from recrl.store import checkpoint
from recrl.training.sft import train_sft


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data`` and ``sids``; nobody writes to it."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that some epochs of SFT have left: RL starts from it."""
    config = run_config(world, tmp_path_factory.mktemp("trained"), sft={"epochs": 8, "lr": 0.01, "patience": 0})
    train_sft(config, silent)
    return checkpoint.best(config.folder / "sft").model
