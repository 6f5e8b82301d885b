"""AdamW, the schedule, the average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from worlds import tiny_model

from recrl.backends.ranks import ALONE
from recrl.errors import RunError
from recrl.training.optimizer import AdamW, average_into, cosine_lr, owners

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


class Whole:
    """A model that one rank holds all of, as the optimiser sees a policy."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    replicated = True

    def finish_gradients(self) -> None:
        pass

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.model.named_parameters()

    def gradient_norm(self) -> Tensor:
        return nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])

    def whole(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield from tensors.items()

    def parts(self, read: Callable[[str], Any]) -> Iterator[tuple[str, Tensor]]:
        for name, _ in self.named_parameters():
            yield name, read(name)[:]


def adamw(model: nn.Module, **options: Any) -> AdamW:
    return AdamW(Whole(model), ALONE, **({"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.5} | options))


def test_matrices_decay_and_vectors_do_not() -> None:
    model = tiny_model("qwen2", 20)  # it has biases and norms
    optimizer = adamw(model)
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(decays) == len(list(model.parameters()))
    for parameter in model.parameters():
        assert decays[id(parameter)] == (0.5 if parameter.dim() > 1 else 0.0)


def test_named_parts_learn_as_many_times_faster_as_is_said() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 1), "body": nn.Linear(2, 1)})
    optimizer = adamw(model, faster={"head.": 3.0})
    optimizer.set_lr(0.2)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    for name, weight in model.named_parameters():
        assert rates[id(weight)] == pytest.approx(0.6 if name.startswith("head.") else 0.2)


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert [len(group["params"]) for group in adamw(model).param_groups] == [1, 0]


def test_the_average_by_hand() -> None:
    average, model = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(average.weight, 0.0)
    nn.init.constant_(model.weight, 1.0)
    both = average.parameters, model.parameters
    average_into(*(of() for of in both), decay=0.999, step=0)  # early: the decay is 1 / 10
    assert float(average.weight.detach()) == pytest.approx(0.9)
    average_into(*(of() for of in both), decay=0.999, step=90)  # (1 + 90) / (10 + 90) = .91
    assert float(average.weight.detach()) == pytest.approx(0.9 * 0.91 + 0.09)
    average_into(*(of() for of in both), decay=0.5, step=10_000)  # late: the decay itself
    assert float(average.weight.detach()) == pytest.approx((0.909 + 1) / 2)
    assert float(model.weight.detach()) == 1


@pytest.mark.parametrize(
    ("sizes", "ranks", "expected"),
    [([5, 3, 3, 9], 1, [0, 0, 0, 0]), ([5, 3, 3, 9], 2, [1, 1, 1, 0]), ([4, 4], 3, [0, 1]), ([], 2, [])],
)
def test_the_rank_that_has_least_takes_the_largest_that_is_left(
    sizes: list[int], ranks: int, expected: list[int]
) -> None:
    assert owners(sizes, ranks) == expected


class Trained:
    """A small model on a fixed problem, stepped with a learning rate of its own each time."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
        self.optimizer = adamw(self.model, betas=(0.9, 0.98), weight_decay=0.1)

    def step(self, number: int) -> None:
        data = torch.randn(8, 4, generator=torch.Generator().manual_seed(number))
        self.optimizer.set_lr(0.1 / (1 + number))
        self.optimizer.zero_grad()
        self.model(data).square().sum().backward()
        self.optimizer.step()

    def kept(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.optimizer.tensors()}


def test_a_restored_optimiser_takes_the_very_same_next_steps() -> None:
    first = Trained()
    for number in range(3):
        first.step(number)
    kept = first.kept()
    assert len(kept) == 2 * 4  # two moments of four parameters
    second = Trained()
    second.model.load_state_dict(copy.deepcopy(first.model.state_dict()))
    second.optimizer.restore(kept.__getitem__, first.optimizer.steps)
    for number in range(3, 6):
        first.step(number)
        second.step(number)
    for left, right in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(left, right)
    again = second.kept()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.kept().items())


def test_restoring_copies_what_it_is_given() -> None:
    trained = Trained()
    trained.step(0)
    kept = trained.kept()
    before = {name: tensor.clone() for name, tensor in kept.items()}
    trained.optimizer.restore(kept.__getitem__, 1)
    trained.step(1)
    assert all(torch.equal(kept[name], before[name]) for name in kept)


def test_an_optimiser_that_never_stepped_comes_back_empty() -> None:
    trained = Trained()
    assert trained.kept() == {}
    trained.optimizer.restore({}.__getitem__, 0)
    trained.step(0)
    other = Trained()
    other.step(0)
    for left, right in zip(trained.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(left, right)


def with_gradient(*values: float) -> nn.Linear:
    layer = nn.Linear(len(values), 1, bias=False)
    layer.weight.grad = torch.tensor([values])
    return layer


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_ends_the_run(value: float) -> None:
    with pytest.raises(RunError, match="at step 7"):
        adamw(with_gradient(1.0, value)).clip(1.0, 7)


def test_clipping_gives_the_norm_that_was() -> None:
    layer = with_gradient(3.0, 4.0)
    assert adamw(layer).clip(1.0, 0) == pytest.approx(5.0)
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[0.6, 0.8]]), atol=1e-5, rtol=0)


def test_a_gradient_below_the_bound_stays_as_it_is() -> None:
    layer = with_gradient(0.3, 0.4)
    assert adamw(layer).clip(1.0, 0) == pytest.approx(0.5)
    assert torch.equal(layer.weight.grad, torch.tensor([[0.3, 0.4]]))


def test_a_part_of_the_batch_without_rows_has_a_gradient_of_zero() -> None:
    layer = nn.Linear(2, 1)
    adamw(layer).add_gradients()
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[0.0, 0.0]]
