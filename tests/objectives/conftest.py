"""Worked numbers for all tests of objectives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def worked(shared: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((shared / "reference" / "worked.json").read_text())
    return values
