"""Layouts against plain forwards of the same rows through stock attention."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from worlds import tiny_policy, tiny_prompts

from recrl.backends.torch_backend import TransformersPolicy

KINDS = ("qwen3", "qwen2", "llama")


def last_states(policy: TransformersPolicy, rows: list[Tensor]) -> Tensor:
    """[rows, H]: the last hidden state of every row, each alone, without a layout."""
    stock = copy.deepcopy(policy.model).eval()
    stock.set_attn_implementation("eager")
    return torch.stack([stock.model(row[None]).last_hidden_state[0, -1] for row in rows])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_beams_that_change_parents_equal_plain_rows(kind: str) -> None:
    policy = tiny_policy(kind)
    prompts = tiny_prompts(policy, [7, 2, 5])  # the second and third are padded
    heads = [prompts.ids[row, : prompts.length[row]] for row in range(3)]
    state, hidden = policy.prefill(prompts)
    torch.testing.assert_close(hidden[:, 0], last_states(policy, heads), atol=1e-5, rtol=1e-4)

    paths = [[head] for head in heads]  # of every prompt, every beam's tokens so far
    generator = torch.Generator().manual_seed(0)
    for step, width in enumerate((4, 5, 2, 3)):
        before = len(paths[0])
        parent = torch.randint(0, before, (3, width), generator=generator)
        token = torch.randint(4, len(policy.tokenizer), (3, width), generator=generator)
        hidden = policy.extend(state, parent, token, step)
        paths = [
            [torch.cat([paths[row][parent[row, beam]], token[row, beam, None]]) for beam in range(width)]
            for row in range(3)
        ]
        expected = torch.stack([last_states(policy, beams) for beams in paths])
        torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[9, 3, 1], [4, 4]], ids=["ragged", "full"])
@torch.no_grad()
def test_rows_one_behind_the_other_equal_rows_alone(kind: str, lengths: list[int]) -> None:
    policy = tiny_policy(kind)
    prompts = tiny_prompts(policy, lengths)
    rows = [prompts.ids[row, :length] for row, length in enumerate(lengths)]
    hidden = policy.causal_hidden(torch.cat(rows), prompts.length)
    assert len(hidden) == sum(lengths)  # no padding is computed
    parts = hidden.split(lengths)
    for row, part in zip(rows, parts, strict=True):
        for place in {0, len(row) - 1}:
            torch.testing.assert_close(part[place], last_states(policy, [row[: place + 1]])[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_prompt_cache_is_never_copied() -> None:
    policy = tiny_policy()
    state, _ = policy.prefill(tiny_prompts(policy, [6, 4]))
    places = [keys.data_ptr() for keys in state.prompt.keys]
    for step in range(3):
        policy.extend(state, torch.zeros(2, 8, dtype=torch.long), torch.full((2, 8), 5), step)
    assert [keys.data_ptr() for keys in state.prompt.keys] == places
    assert [keys.shape[0] for keys in state.prompt.keys] == [2, 2]
    assert state.own_keys[0].shape[2:4] == (8, 3)
