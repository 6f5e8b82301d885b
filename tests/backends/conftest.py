"""The fake NPU, built once and kept between runs of the suite."""

from __future__ import annotations

import pytest
from fake_npu.build import build, compiler
from fake_npu.process import FakeNpu


@pytest.fixture(scope="session")
def npu(request: pytest.FixtureRequest) -> FakeNpu:
    """What starts processes on the fake device."""
    command = compiler()
    if command is None:
        pytest.skip("no C++ compiler to build the fake NPU with")
    return FakeNpu(build(request.config.cache.mkdir("fake_npu"), command))
