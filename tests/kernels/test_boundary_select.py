"""The boundary pair: worked groups, every level of the tie-breaking, every implementation against the definition."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recrl.kernels.boundary_select import reference
from recrl.kernels.registry import KERNELS, load

NAN = float("nan")


@pytest.fixture(scope="module", params=KERNELS["boundary_select"], ids=lambda row: row.name)
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    obstacle = request.param.obstacle(request.param.devices[0])
    if obstacle:
        pytest.skip(obstacle)
    return load("boundary_select", request.param.name)


def pair(
    op: ModuleType, reward: list[float], score: list[float], logp: list[float], valid: list[bool] | None = None
) -> tuple[int, int]:
    """The two indices of a single group; every response is valid unless told."""
    there = torch.tensor([valid or [True] * len(reward)])
    positive, negative = op.boundary_select(*(torch.tensor([key]) for key in (reward, score, logp)), there)
    return int(positive), int(negative)


@pytest.mark.parametrize(
    ("reward", "score", "logp", "expected"),
    [
        pytest.param([1.0, 2.0, 0.0], [0.9, 0.1, 0.5], [0.0, -9.0, 0.0], (1, 2), id="the-reward-decides"),
        pytest.param([1.0, 1.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4], [0.0, -1.0, 0.0, -1.0], (1, 3), id="then-the-score"),
        pytest.param([1.0, 1.0, 0.0, 0.0], [0.2, 0.2, 0.0, 0.0], [-3.0, -2.0, -2.0, -1.0], (1, 3), id="then-the-logp"),
        pytest.param([0.0, 1.0, 0.0, 1.0], [0.0, 0.2, 0.0, 0.2], [-2.0] * 4, (1, 0), id="then-the-lower-index"),
        pytest.param([0.0, 0.0], [-1.0, -2.0], [-1.0, -1.0], (-1, 0), id="no-positive"),
        pytest.param([1.0, 1.0], [1.0, 1.0], [-2.0, -1.0], (1, -1), id="no-negative"),
        pytest.param([-1.0, -0.5], [1.0, 1.0], [-2.0, -1.0], (-1, -1), id="punished-is-neither"),
        pytest.param([1.0, 0.0], [0.0, 0.0], [float("-inf")] * 2, (0, 1), id="impossible-but-there"),
        pytest.param([0.0, -0.0, 1.0], [0.0, -0.0, 0.0], [-0.0, 0.0, 0.0], (2, 0), id="zeros-are-equal"),
    ],
)
def test_groups_by_hand(
    kernel: ModuleType, reward: list[float], score: list[float], logp: list[float], expected: tuple[int, int]
) -> None:
    assert pair(kernel, reward, score, logp) == expected


def test_an_invalid_response_is_never_taken(kernel: ModuleType) -> None:
    keys = ([9.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, -1.0])
    assert pair(kernel, *keys, valid=[False, True, False, True]) == (1, 3)
    assert pair(kernel, *keys, valid=[False] * 4) == (-1, -1)


def test_the_worked_group_before_and_after_repair(kernel: ModuleType, worked: dict[str, Any]) -> None:
    score, anchor = list(worked["D_u"]), worked["D_repair_index"]
    named = [True, True, True, False]  # the last response named nothing
    assert pair(kernel, [0.0] * 4, score, [-1.0] * 4, named) == (-1, 0)
    reward = [float(place == anchor) for place in range(4)]
    score[anchor], named[anchor] = 1.0, True
    assert pair(kernel, reward, score, [-1.0] * 4, named) == (anchor, 0)


@pytest.mark.parametrize("place", [0, 1, 64])  # 64 meets 0 in a kernel that works in steps of 32 or 64
def test_an_undefined_score_at_the_boundary_leaves_no_pair(kernel: ModuleType, place: int) -> None:
    # NaN among those that tie so far equals no maximum, so no response has it; below the boundary it does no harm
    score = [0.5] * 65
    score[place] = NAN
    logp = [-1.0] * 66
    assert pair(kernel, [0.0] * 65 + [1.0], [*score, 0.5], logp) == (65, -1)
    assert pair(kernel, [1.0] * 65 + [2.0], [*score, 0.5], logp) == (65, -1)


def groups(number: int, group: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys of few values, so that ties of every level happen; some of them -inf or NaN."""
    source = torch.Generator().manual_seed(seed)

    def pick(*values: float) -> Tensor:
        return torch.tensor(values)[torch.randint(len(values), (number, group), generator=source)].to(dtype)

    logp = pick(-1.0, -1.0, -2.0, float("-inf"), *([NAN] if seed % 3 == 0 else []))
    return pick(0.0, 0.0, 1.0, 2.0, -1.0), pick(0.0, 0.0, 0.1), logp, torch.rand(number, group, generator=source) < 0.8


@settings(max_examples=25, deadline=None)
@given(
    number=st.integers(0, 4),
    group=st.integers(1, 70),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 999),
)
def test_it_takes_what_the_definition_takes(
    kernel: ModuleType, number: int, group: int, dtype: torch.dtype, seed: int
) -> None:
    inputs = groups(number, group, dtype, seed)
    for index, expected in zip(kernel.boundary_select(*inputs), reference.boundary_select(*inputs), strict=True):
        assert index.dtype == torch.int64
        assert index.tolist() == expected.tolist()


def test_groups_of_thousands(kernel: ModuleType) -> None:
    inputs = groups(2, 2500, torch.float32, seed=1)
    source = torch.Generator().manual_seed(0)
    inputs = (*inputs[:2], torch.randn(2, 2500, generator=source), inputs[3])
    for index, expected in zip(kernel.boundary_select(*inputs), reference.boundary_select(*inputs), strict=True):
        assert index.tolist() == expected.tolist()


def test_double_precision_keys_are_not_rounded(kernel: ModuleType) -> None:
    score = torch.tensor([[0.1, 0.1 + 1e-12]], dtype=torch.float64)
    keys = (torch.zeros(1, 2), score, torch.tensor([[-1.0, -2.0]]))
    _, negative = kernel.boundary_select(*keys, torch.ones(1, 2, dtype=torch.bool))
    assert int(negative) == 1


def test_inputs_may_lie_anywhere_in_memory(kernel: ModuleType) -> None:
    inputs = [key.t().contiguous().t() for key in groups(3, 9, torch.float32, seed=4)]
    for index, expected in zip(kernel.boundary_select(*inputs), reference.boundary_select(*inputs), strict=True):
        assert index.tolist() == expected.tolist()
