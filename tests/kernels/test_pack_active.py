"""Places of active rows: a batch by hand, what holds for any, every implementation against the definition."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recrl.kernels.pack_active import reference
from recrl.kernels.registry import KERNELS, Kernel, load


@pytest.fixture(scope="module", params=KERNELS["pack_active"], ids=lambda row: row.name)
def kernel(request: pytest.FixtureRequest, loaded: Callable[[str, Kernel], ModuleType]) -> ModuleType:
    return loaded("pack_active", request.param)


def test_a_batch_by_hand(kernel: ModuleType) -> None:
    active = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]], dtype=torch.bool)
    kept, prompt_of, slot, response = (places.tolist() for places in kernel.pack_active(active))
    assert kept == [0, 2]
    assert prompt_of == [0, 0, 1, 1, 1]
    assert slot == [0, 1, 0, 1, 2]
    assert response == [1, 3, 0, 1, 3]


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0), (0, 0)], ids=str)
def test_without_an_active_row_nothing_is_left(kernel: ModuleType, shape: tuple[int, int]) -> None:
    for places in kernel.pack_active(torch.zeros(shape, dtype=torch.bool)):
        assert places.tolist() == []
        assert places.dtype == torch.int64


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.integers(0, 6),
    group=st.integers(0, 150),
    share=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    seed=st.integers(0, 999),
)
def test_it_agrees_with_the_definition(kernel: ModuleType, prompts: int, group: int, share: float, seed: int) -> None:
    active = torch.rand(prompts, group, generator=torch.Generator().manual_seed(seed)) < share
    for places, expected in zip(kernel.pack_active(active), reference.pack_active(active), strict=True):
        assert places.dtype == torch.int64
        assert places.tolist() == expected.tolist()


@settings(max_examples=25, deadline=None)
@given(prompts=st.integers(1, 6), group=st.integers(1, 9), seed=st.integers(0, 999))
def test_the_places_lead_back_to_the_mask(kernel: ModuleType, prompts: int, group: int, seed: int) -> None:
    active = torch.rand(prompts, group, generator=torch.Generator().manual_seed(seed)) < 0.3
    kept, prompt_of, slot, response = kernel.pack_active(active)
    again = torch.zeros_like(active)
    again[kept[prompt_of], response] = True
    assert torch.equal(again, active)
    packed = torch.full((len(kept), group), -1)
    packed[prompt_of, slot] = response
    for row, prompt in zip(packed.tolist(), kept.tolist(), strict=True):
        expected = active[prompt].nonzero().squeeze(1).tolist()
        assert row == expected + [-1] * (group - len(expected))


def test_a_mask_may_lie_anywhere_in_memory(kernel: ModuleType) -> None:
    active = (torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) < 0.5).t()
    for places, expected in zip(kernel.pack_active(active), reference.pack_active(active), strict=True):
        assert places.tolist() == expected.tolist()


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_on_ascend_several_launches_are_as_one(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    pytest.importorskip("triton")
    op = load("pack_active", "ascend")
    monkeypatch.setattr(op, "MOST_PROMPTS", 2)
    active = torch.rand(7, 4, generator=torch.Generator().manual_seed(0)) < share
    for places, expected in zip(op.pack_active(active), reference.pack_active(active), strict=True):
        assert places.tolist() == expected.tolist()
