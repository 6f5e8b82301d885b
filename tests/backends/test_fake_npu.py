"""The fake NPU behaves as a device does where it matters, and ``backends/device.py`` speaks to it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from fake_npu.process import FakeNpu


@pytest.fixture(scope="module")
def said(npu: FakeNpu, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every check's answer."""
    folder = tmp_path_factory.mktemp("checks")
    return json.loads(npu.run("import runpy; runpy.run_module('fake_npu.checks', run_name='__main__')", folder=folder))


@pytest.mark.parametrize(
    "check", ["add", "matmul", "index", "index_put", "cat", "stack", "scatter", "two devices", "generator of another"]
)
def test_an_op_between_devices_is_refused(said: dict[str, Any], check: str) -> None:
    other = "npu:1" if check == "two devices" else "cpu"
    assert said[check].startswith("RuntimeError: Expected a")
    assert "npu" in said[check]
    assert other in said[check]


def test_the_host_reads_nothing_without_a_copy(said: dict[str, Any]) -> None:
    assert said["numpy"].startswith("TypeError: can't convert npu:0 device type tensor to numpy")
    assert said["copy"] == [1.0, 2.0]


def test_a_number_may_come_from_the_host(said: dict[str, Any]) -> None:
    assert said["number"] == [2.5, 2.5]


def test_auto_takes_the_npu(said: dict[str, Any]) -> None:
    assert said["auto"] == "npu"
    assert said["chosen"] == "npu:1"


def test_there_are_two_devices(said: dict[str, Any]) -> None:
    assert said["third device"] == "RuntimeError: invalid device ordinal: there are 2 devices"
    assert said["not there"].splitlines()[:2] == [
        "UserError: backend.device = 'npu:2'",
        "  Why: invalid device ordinal: there are 2 devices",
    ]


def test_every_process_of_a_node_takes_its_own_device(said: dict[str, Any]) -> None:
    assert said["local"] == ["npu:0", "npu:1", "npu:1", "current 1"]
    assert "process 2 of this node would need npu:2, and the node has 2" in said["one rank too many"]
    assert said["collectives"] == "hccl"


def test_a_seed_means_the_same_as_on_cpu(said: dict[str, Any]) -> None:
    assert said["random"] is True
    assert said["own generator"] == torch.rand(1, generator=torch.Generator().manual_seed(3)).item()


def test_random_state_is_the_device_s_own(said: dict[str, Any]) -> None:
    assert said["state"] is True
    assert said["recomputed"] is True


def test_memory_is_counted(said: dict[str, Any]) -> None:
    assert said["memory"] == [4000, 404_000, 0]  # held, peak, left
    assert said["reported peak"] == said["reported peak of older torch"] == 0.25  # 10^9 bytes


def test_memory_runs_out(said: dict[str, Any]) -> None:
    assert said["out of memory"] == "NPU out of memory"


def test_a_module_moves_as_torch_npu_moves_it(said: dict[str, Any]) -> None:
    assert said["tied"] == [True, True, True]


def test_views_are_written_in_place(said: dict[str, Any]) -> None:
    assert said["strided"] == [[0, 5, 0, 0], [0, 0, 5, 0], [0, 0, 0, 0]]


def test_streams_and_events(said: dict[str, Any]) -> None:
    assert said["timed"] is True


def test_autocast_lowers_matrix_products_alone_where_asked(said: dict[str, Any]) -> None:
    assert said["autocast"] == ["torch.bfloat16", "torch.float32"]


def test_what_falls_back_to_the_cpu_is_counted(said: dict[str, Any]) -> None:
    assert said["fallbacks"] == 1
