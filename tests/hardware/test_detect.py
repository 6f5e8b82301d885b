"""Which profile devices have by their names."""

from __future__ import annotations

import platform

import pytest
import torch

from recrl.errors import UserError
from recrl.hardware import detect as module
from recrl.hardware.detect import Detected, detect, match, this_machine, with_figures
from recrl.hardware.profiles import FIGURES, load_profile

H100 = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("device", "names", "profile"),
    [
        ("cuda", [H100], "h100"),
        ("cuda", [H100] * 8, "h100-8"),
        ("npu", ["Ascend910B3"] * 8, "ascend-910b3-8"),
        ("npu", ["Ascend910_9391"] * 8, "ascend-910c-8"),
        ("cuda", ["NVIDIA A100-SXM4-40GB"], "a100-40gb"),
    ],
)
def test_known_names_have_the_layout_of_their_number(device: str, names: list[str], profile: str) -> None:
    assert match(device, names).profile == profile


def test_a_part_of_a_node_has_its_profile() -> None:
    assert match("cuda", [H100] * 3).profile == "h100-3"


def test_more_than_a_node_holds_is_told_with_the_profile_of_one() -> None:
    found = match("cuda", [H100] * 9)
    assert found.profile == "h100"
    assert 'base = "h100" and devices_per_node = 9' in found.why


@pytest.mark.parametrize("name", ["NVIDIA H100 PCIe", "Ascend910B4-1", "NVIDIA H200 NVL", ""])
def test_a_name_that_is_not_known_is_never_guessed_at(name: str) -> None:
    found = match("cuda", [name])
    assert found.profile is None
    assert repr(name) in found.why


def test_devices_that_differ_have_no_profile() -> None:
    found = match("cuda", [H100, "NVIDIA H200"])
    assert found.profile is None
    assert "differ" in found.why


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a machine with an accelerator is another one")
def test_a_machine_without_accelerator_is_a_cpu() -> None:
    assert detect() == match("cpu", [platform.machine()])
    assert this_machine() == load_profile("cpu")


def test_a_machine_that_is_not_known_needs_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "detect", lambda: Detected("cuda", ["odd"], None, "no profile lists 'odd'"))
    with pytest.raises(UserError, match="no profile lists 'odd'"):
        this_machine()


def test_a_measured_machine_has_figures_of_its_own() -> None:
    profile = with_figures(load_profile("cpu"))
    assert all(getattr(profile, name) > 0 for name in FIGURES)
    assert not profile.measured
    assert set(profile.sources.values()) == {"measured on this machine"}


def test_stated_figures_stay() -> None:
    assert with_figures(load_profile("h100")) == load_profile("h100")
