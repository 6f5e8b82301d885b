"""AdamW, the schedule, the average of the weights."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from worlds import tiny_model

from recrl.errors import RunError
from recrl.training.optimizer import (
    adamw,
    average_into,
    clip,
    cosine_lr,
    optimizer_tensors,
    restore_optimizer,
    set_lr,
)

SCHEDULE = {"steps": 30, "warmup_steps": 10, "lr": 1.0, "lr_final": 0.2}


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (15, 0.6 + 0.4 * math.cos(math.pi / 4)), (20, 0.6), (30, 0.2), (99, 0.2)],
)
def test_the_schedule_rises_linearly_and_falls_as_a_cosine(step: int, expected: float) -> None:
    assert cosine_lr(step, **SCHEDULE) == pytest.approx(expected)  # type: ignore[arg-type]


def test_a_schedule_without_warmup_starts_at_the_top_and_one_of_warmup_alone_never_falls() -> None:
    assert cosine_lr(0, steps=5, warmup_steps=0, lr=2.0, lr_final=0.0) == 2.0
    assert cosine_lr(4, steps=5, warmup_steps=5, lr=2.0, lr_final=0.0) == 2.0
    assert cosine_lr(3, steps=5, warmup_steps=9, lr=9.0, lr_final=0.0) == pytest.approx(4.0)


def test_matrices_decay_and_vectors_do_not() -> None:
    model = tiny_model("qwen2", 20)  # it has biases and norms
    optimizer = adamw(model, lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(decays) == len(list(model.parameters()))
    for parameter in model.parameters():
        assert decays[id(parameter)] == (0.5 if parameter.dim() > 1 else 0.0)


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = adamw(model, lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 0]


def test_the_average_by_hand() -> None:
    average, model = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(average.weight, 0.0)
    nn.init.constant_(model.weight, 1.0)
    average_into(average, model, decay=0.999, step=0)  # early: the decay is 1 / 10
    assert float(average.weight.detach()) == pytest.approx(0.9)
    average_into(average, model, decay=0.999, step=90)  # (1 + 90) / (10 + 90) = .91
    assert float(average.weight.detach()) == pytest.approx(0.9 * 0.91 + 0.09)
    average_into(average, model, decay=0.5, step=10_000)  # late: the decay itself
    assert float(average.weight.detach()) == pytest.approx((0.909 + 1) / 2)
    assert float(model.weight.detach()) == 1


class Trained:
    """A small model on a fixed problem, stepped with a learning rate of its own each time."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
        self.optimizer = adamw(self.model, lr=0.1, betas=(0.9, 0.98), weight_decay=0.1)
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}

    def step(self, number: int) -> None:
        data = torch.randn(8, 4, generator=torch.Generator().manual_seed(number))
        set_lr(self.optimizer, 0.1 / (1 + number))
        self.optimizer.zero_grad()
        self.model(data).square().sum().backward()
        self.optimizer.step()


def test_a_restored_optimiser_takes_the_very_same_next_steps() -> None:
    first = Trained()
    for number in range(3):
        first.step(number)
    kept = {name: tensor.clone() for name, tensor in optimizer_tensors(first.optimizer, first.names).items()}
    assert len(kept) == 3 * 4  # step and two moments of four parameters
    second = Trained()
    second.model.load_state_dict(copy.deepcopy(first.model.state_dict()))
    restore_optimizer(second.optimizer, second.names, kept)
    for number in range(3, 6):
        first.step(number)
        second.step(number)
    for left, right in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(left, right)
    assert all(
        torch.equal(tensor, optimizer_tensors(second.optimizer, second.names)[name])
        for name, tensor in optimizer_tensors(first.optimizer, first.names).items()
    )


def test_restoring_copies_what_it_is_given() -> None:
    trained = Trained()
    trained.step(0)
    kept = {name: tensor.clone() for name, tensor in optimizer_tensors(trained.optimizer, trained.names).items()}
    before = {name: tensor.clone() for name, tensor in kept.items()}
    restore_optimizer(trained.optimizer, trained.names, kept)
    trained.step(1)
    assert all(torch.equal(kept[name], before[name]) for name in kept)


def test_an_optimiser_that_never_stepped_comes_back_empty() -> None:
    trained = Trained()
    assert optimizer_tensors(trained.optimizer, trained.names) == {}
    restore_optimizer(trained.optimizer, trained.names, {})
    trained.step(0)
    other = Trained()
    other.step(0)
    for left, right in zip(trained.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_ends_the_run(value: float) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, value])
    with pytest.raises(RunError, match="at step 7"):
        clip([parameter], 1.0, 7)


def test_clipping_gives_the_norm_that_was() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert clip([parameter], 1.0, 0) == pytest.approx(5.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]), atol=1e-5, rtol=0)
