"""One toy world for all tests of the benchmarks, and a setting that measures as little as possible."""

from __future__ import annotations

from pathlib import Path

import pytest

from recrl.bench.measurement import Setting
from recrl.bench.world import WorldSize, make_config, make_rl, write_world
from recrl.config import RunConfig
from recrl.training.rl import Rl

TOY = WorldSize("0.3M", prompts=2, history=5, items=50, group=4)


@pytest.fixture
def toy() -> WorldSize:
    return TOY


@pytest.fixture
def setting() -> Setting:
    return Setting(quick=True, threads=1, say=lambda _: None)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, SIDs and a model; nobody writes to it."""
    folder = tmp_path_factory.mktemp("bench")
    write_world(folder, TOY, 1)
    return folder


@pytest.fixture
def config(world: Path) -> RunConfig:
    return make_config(world, TOY, 1)


@pytest.fixture
def rl(config: RunConfig) -> Rl:
    return make_rl(config)
