"""One small prepared world for all tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data`` and ``sids``; nobody writes to it."""
    return write_world(tmp_path_factory.mktemp("world"))
