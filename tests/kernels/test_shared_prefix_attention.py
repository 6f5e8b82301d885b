"""Attention on one flat row: all implementations against the definition, the definition against plain attention."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recrl.kernels.registry import KERNELS, load
from recrl.kernels.shared_prefix_attention import reference
from recrl.kernels.shared_prefix_attention.rows import PrefixRows

OTHERS = [row for row in KERNELS["shared_prefix_attention"] if row.name != "reference"]


@pytest.fixture(scope="module", params=OTHERS, ids=lambda row: row.name)
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    obstacle = request.param.obstacle("cpu")
    if obstacle:
        pytest.skip(obstacle)
    return load("shared_prefix_attention", request.param.name)


def rows_of(prompts: list[int], responses: list[list[int]]) -> PrefixRows:
    """Lengths of prompts, and of the response-prefix tokens of every prompt's responses."""
    prompt_of = [number for number, group in enumerate(responses) for _ in group]
    lengths = [length for group in responses for length in group]
    return PrefixRows(torch.tensor(prompts), torch.tensor(lengths).long(), torch.tensor(prompt_of).long())


def shared_rows_of(prompts: list[int], responses: list[list[str]]) -> PrefixRows:
    """Lengths of prompts, and every response's response-prefix tokens, a letter each; equal beginnings are one."""
    distinct: dict[tuple[int, str], int] = {}
    shared = [
        distinct.setdefault((number, response[: end + 1]), len(distinct))
        for number, group in enumerate(responses)
        for response in group
        for end in range(len(response))
    ]
    rows = rows_of(prompts, [[len(response) for response in group] for group in responses])
    return replace(rows, shared=torch.tensor(shared).long())


def states(rows: PrefixRows, heads: int, key_heads: int, size: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(rows.count, count, size).to(dtype).requires_grad_() for count in (heads, key_heads, key_heads)]


def run(op: ModuleType, inputs: list[Tensor], rows: PrefixRows, gradient: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    out = op.shared_prefix_attention(*inputs, rows, scaling=0.3)
    return [out.detach(), *torch.autograd.grad(out, inputs, gradient, materialize_grads=True)]


@st.composite
def shapes(draw: st.DrawFn) -> tuple[PrefixRows, int, int, int]:
    prompts = draw(st.lists(st.integers(1, 70), min_size=1, max_size=4))
    group = st.lists(st.text("ab", max_size=5), max_size=5)
    responses = draw(st.lists(group, min_size=len(prompts), max_size=len(prompts)))
    key_heads = draw(st.integers(1, 2))
    rows = shared_rows_of(prompts, responses)
    if draw(st.booleans()):
        rows = rows_of(prompts, [[len(response) for response in group] for group in responses])
    return rows, key_heads * draw(st.integers(1, 3)), key_heads, 2 * draw(st.integers(1, 20))


@settings(max_examples=40, deadline=None)
@given(drawn=shapes())
def test_values_and_gradients_are_those_of_the_definition(
    kernel: ModuleType, drawn: tuple[PrefixRows, int, int, int]
) -> None:
    rows, *sizes = drawn
    inputs = states(rows, *sizes, torch.float32)
    gradient = torch.randn_like(inputs[0])
    for found, expected in zip(
        run(kernel, inputs, rows, gradient), run(reference, inputs, rows, gradient), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prompts_ask", [True, False], ids=["last-and-responses", "responses"])
@settings(max_examples=40, deadline=None)
@given(drawn=shapes())
def test_queries_of_some_tokens_alone_give_the_same(
    kernel: ModuleType, prompts_ask: bool, drawn: tuple[PrefixRows, int, int, int]
) -> None:
    rows, *sizes = drawn
    query, key, value = states(rows, *sizes, torch.float32)
    asked = rows.read if prompts_ask else torch.arange(rows.prompts.count, rows.count)
    some = query[asked].detach().requires_grad_()
    gradient = torch.randn_like(some)
    whole = torch.zeros_like(query).index_copy(0, asked, gradient)
    out, of_query, *of_keys = run(reference, [query, key, value], rows, whole)
    for found, expected in zip(
        run(kernel, [some, key, value], rows, gradient), [out[asked], of_query[asked], *of_keys], strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_bfloat16_rounds_its_inputs_and_outputs_alone(kernel: ModuleType) -> None:
    rows = rows_of([33, 5], [[2, 2, 1], []])
    inputs = states(rows, 4, 2, 16, torch.bfloat16)
    gradient = torch.randn_like(inputs[0])
    for found, expected in zip(
        run(kernel, inputs, rows, gradient), run(reference, inputs, rows, gradient), strict=True
    ):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


def test_long_responses_and_large_scores(kernel: ModuleType) -> None:
    rows = rows_of([3], [[90, 40]])
    inputs = [(30 * part.detach()).requires_grad_() for part in states(rows, 2, 1, 8, torch.float32)]
    gradient = torch.randn_like(inputs[0])
    for found, expected in zip(
        run(kernel, inputs, rows, gradient), run(reference, inputs, rows, gradient), strict=True
    ):
        assert found.isfinite().all()
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_the_definition_is_plain_causal_attention_of_unpacked_rows() -> None:
    rows = rows_of([4, 2], [[2, 1], [3]])
    query, key, value = (part.detach() for part in states(rows, 4, 2, 8, torch.float32))
    out = reference.shared_prefix_attention(query, key, value, rows, scaling=0.3)
    places = [([0, 1, 2, 3], [6, 7]), ([0, 1, 2, 3], [8]), ([4, 5], [9, 10, 11])]  # of every response: prompt and own
    for prompt, own in places:
        tokens = torch.tensor([*prompt, *own])
        plain = [part[tokens].transpose(0, 1)[None] for part in (query, key, value)]
        expected = F.scaled_dot_product_attention(*plain, is_causal=True, scale=0.3, enable_gqa=True)
        torch.testing.assert_close(out[tokens], expected[0].transpose(0, 1), atol=1e-5, rtol=1e-5)


def test_shared_tokens_stand_for_all_that_begin_alike() -> None:
    """What attention over responses with tokens of their own gives, where equal tokens have equal states."""
    shared = shared_rows_of([3, 2], [["ab", "ac", "ab", "d"], ["aa", "a"]])
    apart = rows_of([3, 2], [[2, 2, 2, 1], [2, 1]])
    assert shared.count == 5 + 4 + 2
    assert shared.sizes.own == [4, 2]
    every = torch.cat([torch.arange(5), 5 + shared.own])  # of the tokens apart, the shared one that each is
    inputs = states(shared, 4, 2, 8, torch.float32)
    out = reference.shared_prefix_attention(*inputs, shared, scaling=0.3)
    expected = reference.shared_prefix_attention(*(part[every] for part in inputs), apart, scaling=0.3)
    torch.testing.assert_close(out[every], expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(shared.positions[every], apart.positions)


def test_positions_of_responses_go_on_where_their_prompt_ends() -> None:
    rows = rows_of([3, 1], [[2, 0], [1]])
    assert rows.positions.tolist() == [0, 1, 2, 0, 3, 4, 1]
    assert rows.first_row.tolist() == [0, 2, 3]
    assert rows.read.tolist() == [2, 3, 4, 5, 6]
