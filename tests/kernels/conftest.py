"""Fixtures for all ops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest

from recrl.kernels.registry import Kernel, load


@pytest.fixture(scope="session")
def loaded() -> Callable[[str, Kernel], ModuleType]:
    """The implementation of an op that a row names; the test is skipped where it can't run."""

    def load_or_skip(op: str, row: Kernel) -> ModuleType:
        # Triton's interpreter takes the place of an NPU, so what speaks to one need not be there.
        row = replace(row, needs=tuple(package for package in row.needs if package != "torch_npu"))
        obstacle = row.obstacle(row.devices[0])
        if obstacle:
            pytest.skip(obstacle)
        return load(op, row.name)

    return load_or_skip
