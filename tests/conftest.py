"""Fixtures for the whole suite."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton: its kernels then run without a device

settings.register_profile("suite", deadline=None)  # a busy machine is no failure
settings.load_profile("suite")

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; its tests are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared (real data for development) is absent")
    return SHARED.resolve()


@pytest.fixture(scope="session")
def worked() -> dict[str, Any]:
    """The worked numbers of ``docs/papers.md``."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "worked.json").read_text())
    return found
