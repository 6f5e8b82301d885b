"""Log-probabilities: worked numbers, and every implementation in plain torch against the definition.

Letters: T tokens, H hidden size, V vocabulary, C legal continuations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recrl.kernels.linear_logp import chunked, reference
from recrl.kernels.registry import KERNELS, load

Op = Callable[..., tuple[Tensor, Tensor]]
ROWS = [row for row in KERNELS["linear_logp"] if row.name not in ("reference", "triton_gpu")]
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 2e-2}  # the reference never exceeds float32
SHAPES = settings(max_examples=60, deadline=None)
# Sizes that cut even a small case into many chunks and tiles, in every combination of what is kept and what is not.
SIZES = st.fixed_dictionaries(
    {
        "PLAIN": st.just(0),
        "KEPT": st.sampled_from((0, 300, 10**6)),
        "CHUNK": st.sampled_from((1, 300)),
        "LEGAL_CHUNK": st.sampled_from((1, 300)),
        "TILE": st.sampled_from((1, 200, 10**6)),
        "BLOCK": st.sampled_from((1, 5, 64)),
        "TURNED": st.sampled_from((0, 10**6)),
    }
)


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.name)
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    obstacle = request.param.obstacle("cpu")
    if obstacle:
        pytest.skip(obstacle)
    return load("linear_logp", request.param.name)


def inputs(tokens: int, vocabulary: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Hidden states and an output matrix with logits of standard deviation 2, and targets."""
    source = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=source).to(dtype).requires_grad_()
    weight = (torch.randn(vocabulary, width, generator=source) * 2 * width**-0.5).to(dtype).requires_grad_()
    return [hidden, weight, torch.randint(vocabulary, (tokens,), generator=source)]


def with_legal(tokens: int, vocabulary: int, width: int, legal: int, dtype: torch.dtype, seed: int) -> list[Tensor]:
    """The same, and legal continuations: no two alike, some absent, the target among the others."""
    hidden, weight, _ = inputs(tokens, vocabulary, width, dtype, seed)
    source = torch.Generator().manual_seed(seed)
    option = torch.rand(tokens, vocabulary, generator=source).argsort(1)[:, :legal]
    exists = torch.rand(tokens, legal, generator=source) < 0.5
    chosen = torch.randint(legal, (tokens, 1), generator=source)
    exists.scatter_(1, chosen, True)
    return [hidden, weight, option.gather(1, chosen).squeeze(1), option.masked_fill(~exists, 0), exists]


def outcome(op: Op, given_: list[Tensor]) -> list[Tensor]:
    """Log-probabilities, entropies, and the gradients to hidden states and weight of a weighted sum."""
    logp, entropy = op(*given_)
    assert logp.dtype == entropy.dtype == torch.float32
    assert not entropy.requires_grad
    return [logp.detach(), entropy, *torch.autograd.grad(logp, given_[:2], torch.linspace(-1, 2, len(logp)))]


def agree(found: list[Tensor], wanted: list[Tensor]) -> None:
    """To the tolerance of the inputs' dtype; gradients relative to the largest entry (0.1 at least: one may vanish)."""
    tolerance = TOLERANCE[wanted[2].dtype]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.dtype == theirs.dtype
        largest = float(theirs.abs().max()) if theirs.numel() else 1.0
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance * max(0.1, largest))


def in_small(sizes: dict[str, int], run: Callable[[], Any]) -> Any:
    """What a function returns while ``chunked`` works in other sizes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(chunked, name, size)
        return run()


def test_two_words_by_hand() -> None:
    # logits 0 and ln 3: probabilities 1/4 and 3/4
    hidden, weight = torch.ones(2, 1).requires_grad_(), torch.tensor([[0.0], [math.log(3)]]).requires_grad_()
    logp, entropy = reference.linear_logp(hidden, weight, torch.tensor([1, 0]))
    torch.testing.assert_close(logp, torch.tensor([math.log(0.75), math.log(0.25)]))
    torch.testing.assert_close(entropy, torch.full((2,), math.log(4) - 0.75 * math.log(3)))
    # onehot - p: (-1/4, 1/4) and (3/4, -3/4); the second token counts twice
    for_hidden, for_weight = torch.autograd.grad(logp, (hidden, weight), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(for_hidden, torch.tensor([[0.25 * math.log(3)], [-1.5 * math.log(3)]]))
    torch.testing.assert_close(for_weight, torch.tensor([[1.25], [-1.25]]))


def test_only_legal_words_count_by_hand() -> None:
    # logits 0, ln 3 and ln 50; the last is not legal, and padding that names it is not read
    hidden, weight = torch.ones(1, 1).requires_grad_(), torch.tensor([[0.0], [3.0], [50.0]]).log().clamp(min=0)
    weight.requires_grad_()
    legal, exists = torch.tensor([[2, 1, 0]]), torch.tensor([[False, True, True]])
    logp, entropy = reference.legal_logp(hidden, weight, torch.tensor([1]), legal, exists)
    torch.testing.assert_close(logp, torch.tensor([math.log(0.75)]))
    torch.testing.assert_close(entropy, torch.tensor([math.log(4) - 0.75 * math.log(3)]))
    (for_weight,) = torch.autograd.grad(logp, weight)
    torch.testing.assert_close(for_weight, torch.tensor([[-0.25], [0.25], [0.0]]))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(0, 7, 3), (1, 9, 4), (8, 70_001, 4), (3000, 701, 24)], ids=str)
def test_agrees_with_the_reference(kernel: ModuleType, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    agree(outcome(kernel.linear_logp, inputs(*shape, dtype)), outcome(reference.linear_logp, inputs(*shape, dtype)))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(0, 7, 3, 2), (1, 9, 4, 9), (2101, 701, 24, 90)], ids=str)
def test_agrees_with_the_reference_on_legal_words(
    kernel: ModuleType, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    given_ = with_legal(*shape, dtype, seed=1)
    agree(outcome(kernel.legal_logp, given_), outcome(reference.legal_logp, given_))


@SHAPES
@given(st.integers(0, 40), st.integers(1, 300), st.integers(1, 20), st.sampled_from([*TOLERANCE]), SIZES, st.integers())
def test_chunks_of_any_size_make_no_difference(
    tokens: int, vocabulary: int, width: int, dtype: torch.dtype, sizes: dict[str, int], seed: int
) -> None:
    given_ = inputs(tokens, vocabulary, width, dtype, seed % 1000)
    agree(in_small(sizes, lambda: outcome(chunked.linear_logp, given_)), outcome(reference.linear_logp, given_))


@SHAPES
@given(st.integers(0, 40), st.integers(1, 60), st.integers(1, 20), st.sampled_from([*TOLERANCE]), SIZES, st.integers())
def test_blocks_of_any_size_make_no_difference_to_legal_words(
    tokens: int, vocabulary: int, width: int, dtype: torch.dtype, sizes: dict[str, int], seed: int
) -> None:
    given_ = with_legal(tokens, vocabulary, width, 1 + seed % vocabulary, dtype, seed % 1000)
    agree(in_small(sizes, lambda: outcome(chunked.legal_logp, given_)), outcome(reference.legal_logp, given_))


def shared(tokens: int, vocabulary: int, width: int, states: int, dtype: torch.dtype, seed: int) -> list[Tensor]:
    """The inputs of ``linear_logp`` where states predict several targets or none, some of them alike."""
    hidden, weight, _ = inputs(states, vocabulary, width, dtype, seed)
    draw = torch.Generator().manual_seed(seed)
    target = torch.randint(min(vocabulary, 3), (tokens,), generator=draw) * (vocabulary // 3)
    return [hidden, weight, target, torch.randint(states, (tokens,), generator=draw)]


def expanded(hidden: Tensor, weight: Tensor, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """A copy of the state for every target, in float32: bfloat16 would round the sum over copies at every step."""
    return reference.linear_logp(hidden.float()[source], weight.float(), target)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ["reference", "chunked", "native"])
@pytest.mark.parametrize("shape", [(0, 7, 3, 1), (9, 9, 4, 2), (3000, 701, 24, 1000)], ids=str)
def test_targets_that_share_a_state_are_as_those_of_its_copies(
    name: str, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    row = next(row for row in KERNELS["linear_logp"] if row.name == name)
    if row.obstacle("cpu"):
        pytest.skip(str(row.obstacle("cpu")))
    given_ = shared(*shape, dtype, seed=2)
    agree(outcome(load("linear_logp", name).linear_logp, given_), outcome(expanded, given_))


@SHAPES
@given(st.integers(0, 40), st.integers(3, 300), st.integers(1, 20), st.sampled_from([*TOLERANCE]), SIZES, st.integers())
def test_chunks_of_any_size_make_no_difference_to_shared_states(
    tokens: int, vocabulary: int, width: int, dtype: torch.dtype, sizes: dict[str, int], seed: int
) -> None:
    given_ = shared(tokens, vocabulary, width, 1 + seed % 50, dtype, seed % 1000)
    agree(in_small(sizes, lambda: outcome(chunked.linear_logp, given_)), outcome(expanded, given_))


def test_a_confident_token_that_several_rows_share_keeps_its_small_gradient_in_bfloat16() -> None:
    hidden, weight = torch.ones(1, 1, dtype=torch.bfloat16), torch.full((100, 1), -11.5, dtype=torch.bfloat16)
    weight[64] = 0.0
    weight.requires_grad_()
    target = torch.tensor([64, 64])
    logp, _ = in_small({"PLAIN": 0}, lambda: chunked.linear_logp(hidden, weight, target, torch.zeros_like(target)))
    (gradient,) = torch.autograd.grad(logp, weight, torch.tensor([0.7, 0.6]))
    rest = 99 * math.exp(-11.5)
    assert float(gradient[64]) == pytest.approx(1.3 * rest / (1 + rest), rel=4e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [1, 15, 16, 1024, 3001])
def test_normalisers_are_those_of_the_definition(kernel: ModuleType, width: int, dtype: torch.dtype) -> None:
    logits = (20 * torch.randn(40, width, generator=torch.Generator().manual_seed(0))).to(dtype)
    logits[3, 0] = float("nan")
    found, wanted = kernel.log_normaliser(logits), reference.log_normaliser(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


def with_bias(given_: list[Tensor], seed: int) -> Tensor:
    """[T, C] what is added to the legal logits, as hard as they are."""
    return (torch.randn(given_[3].shape, generator=torch.Generator().manual_seed(seed)) * 2).requires_grad_()


def test_a_bias_adds_to_legal_logits_by_hand() -> None:
    # Logits 0 and ln 3 of two legal words, and ln 6 more for the first: probabilities 6 / 9 and 3 / 9.
    hidden, weight = torch.ones(1, 1), torch.tensor([[0.0], [math.log(3)]])
    legal, exists = torch.tensor([[0, 1, 0]]), torch.tensor([[True, True, False]])
    bias = torch.tensor([[math.log(6), 0.0, 99.0]])
    logp, entropy = reference.legal_logp(hidden, weight, torch.tensor([0]), legal, exists, bias)
    torch.testing.assert_close(logp, torch.tensor([math.log(2 / 3)]))
    torch.testing.assert_close(entropy, torch.tensor([-2 / 3 * math.log(2 / 3) - 1 / 3 * math.log(1 / 3)]))


@SHAPES
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 20), SIZES, st.integers(0, 999))
def test_a_bias_has_the_values_and_the_gradient_of_the_reference(
    tokens: int, vocabulary: int, width: int, sizes: dict[str, int], seed: int
) -> None:
    given_ = with_legal(tokens, vocabulary, width, 1 + seed % vocabulary, torch.float32, seed)
    bias = with_bias(given_, seed)
    factor = torch.linspace(-1, 2, tokens)

    def run(op: Op) -> list[Tensor]:
        logp, entropy = op(*given_, bias)
        return [logp.detach(), entropy, *torch.autograd.grad(logp, (*given_[:2], bias), factor)]

    agree(in_small(sizes, lambda: run(chunked.legal_logp)), run(reference.legal_logp))


def test_a_bias_of_zero_changes_nothing(kernel: ModuleType) -> None:
    given_ = with_legal(30, 200, 8, 20, torch.float32, seed=6)
    nothing = torch.zeros(given_[3].shape)
    agree(outcome(kernel.legal_logp, [*given_, nothing]), outcome(kernel.legal_logp, given_))


@pytest.mark.parametrize("kept", [0, 10**6])
@pytest.mark.parametrize("op", ["linear_logp", "legal_logp"])
def test_a_second_backward_pass_leaves_the_first_ones_gradients_alone(op: str, kept: int) -> None:
    given_ = with_legal(30, 200, 8, 20, torch.float32, seed=3)[: 5 if op == "legal_logp" else 3]
    ones = torch.ones(30)

    def twice() -> tuple[tuple[Tensor, ...], ...]:
        logp, _ = getattr(chunked, op)(*given_)
        first = torch.autograd.grad(logp, given_[:2], ones, retain_graph=True)
        return first, torch.autograd.grad(logp, given_[:2], -2 * ones)

    first, second = in_small({"PLAIN": 0, "CHUNK": 300, "BLOCK": 7, "KEPT": kept}, twice)
    wanted = torch.autograd.grad(getattr(reference, op)(*given_)[0], given_[:2], ones)
    for one, other, right in zip(first, second, wanted, strict=True):
        torch.testing.assert_close(one, right, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(other, -2 * right, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("frozen", [0, 1], ids=["hidden", "weight"])
@pytest.mark.parametrize("op", ["linear_logp", "legal_logp"])
def test_a_frozen_input_leaves_the_others_gradient_as_it_is(op: str, frozen: int) -> None:
    given_ = with_legal(30, 200, 8, 20, torch.float32, seed=4)[: 5 if op == "legal_logp" else 3]
    wanted = outcome(getattr(reference, op), given_)[3 - frozen]
    given_[frozen] = given_[frozen].detach()

    def gradient() -> Tensor:
        logp, _ = getattr(chunked, op)(*given_)
        return torch.autograd.grad(logp, given_[1 - frozen], torch.linspace(-1, 2, len(logp)))[0]

    found = in_small({"PLAIN": 0, "CHUNK": 300, "LEGAL_CHUNK": 300, "BLOCK": 7}, gradient)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("op", ["linear_logp", "legal_logp"])
def test_autocast_takes_inputs_as_if_they_were_cast_and_returns_gradients_in_their_own_dtype(op: str) -> None:
    given_ = with_legal(30, 200, 8, 20, torch.float32, seed=5)[: 5 if op == "legal_logp" else 3]
    cast = [one.detach().bfloat16().requires_grad_() for one in given_[:2]] + given_[2:]

    def both() -> tuple[list[Tensor], list[Tensor]]:
        with torch.autocast("cpu", torch.bfloat16):
            found = outcome(getattr(chunked, op), given_)
        return found, outcome(getattr(chunked, op), cast)

    found, wanted = in_small({"PLAIN": 0, "CHUNK": 300, "BLOCK": 7}, both)
    assert found[2].dtype == found[3].dtype == torch.float32
    for mine, theirs in zip(found, wanted, strict=True):
        assert torch.equal(mine, theirs.float())


def test_a_confident_token_keeps_its_small_gradient_in_bfloat16() -> None:
    # p = 1 - 1e-3: its gradient is far below what bfloat16 resolves next to 1
    hidden = torch.ones(1, 1, dtype=torch.bfloat16)
    weight = torch.full((100, 1), -11.5, dtype=torch.bfloat16)
    weight[64] = 0.0
    weight.requires_grad_()
    logp, _ = in_small({"PLAIN": 0, "CHUNK": 1}, lambda: chunked.linear_logp(hidden, weight, torch.tensor([64])))
    (gradient,) = torch.autograd.grad(logp, weight)
    rest = 99 * math.exp(-11.5)
    assert float(gradient[64]) == pytest.approx(rest / (1 + rest), rel=4e-3)


@pytest.mark.parametrize("target", [-1, 200])
def test_an_id_outside_the_vocabulary_is_an_error(target: int) -> None:
    hidden, weight, _ = inputs(3, 200, 4)
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        in_small({"PLAIN": 0}, lambda: chunked.linear_logp(hidden, weight, torch.tensor([0, target, 1])))


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("differentiable", [True, False])
def test_no_tensor_is_as_large_as_all_logits(differentiable: bool) -> None:
    given_ = inputs(64, 500, 16)  # 32,000 logits; two tiles, allocated together, have 8192

    def largest() -> int:
        with Largest() as seen, torch.set_grad_enabled(differentiable):
            logp, _ = chunked.linear_logp(*given_)
            if differentiable:
                torch.autograd.grad(logp.sum(), given_[:2])
        return seen.elements

    assert in_small({"PLAIN": 0, "CHUNK": 4096, "KEPT": 0}, largest) <= 8192
