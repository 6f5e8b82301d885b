"""Attention over prompts and their responses on one flat row: the definition of the op in plain torch.

Letters: T tokens, H query heads, J key heads (H a multiple of J), D head size; others as in ``rows``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.kernels.shared_prefix_attention.rows import PrefixRows


def shared_prefix_attention(query: Tensor, key: Tensor, value: Tensor, rows: PrefixRows, *, scaling: float) -> Tensor:
    """A prompt's token sees the prompt up to itself; a response's token sees its whole prompt and its response up to
    itself. No response sees another.

    Args:
        query: [T, H, D], or [R, H, D] of the tokens ``rows.read`` alone.
        key, value: [T, J, D].
        rows: who is who.
        scaling: factor on the scores.

    Returns:
        As ``query``, in its dtype; scores and softmax are in float32.
    """
    if len(query) != len(key):
        every = query.new_zeros(len(key), *query.shape[1:]).index_copy(0, rows.read, query)
        return shared_prefix_attention(every, key, value, rows, scaling=scaling)[rows.read]
    share = query.shape[1] // key.shape[1]
    keys, values = (states.float().repeat_interleave(share, 1) for states in (key, value))
    lengths = [*rows.prompt_length.tolist(), *rows.row_length.tolist()]
    prompts = len(rows.prompt_length)
    parts = [torch.arange(stop - length, stop) for length, stop in _stops(lengths)]
    outputs = []
    for number, own in enumerate(parts):
        seen = own if number < prompts else torch.cat([parts[int(rows.prompt_of[number - prompts])], own])
        scores = torch.einsum("qhd,khd->hqk", query[own].float() * scaling, keys[seen])
        hidden = torch.ones(len(own), len(seen), dtype=torch.bool).triu(len(seen) - len(own) + 1)
        weight = scores.masked_fill(hidden.to(scores.device), float("-inf")).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weight, values[seen]))
    return torch.cat(outputs).to(query.dtype)


def _stops(lengths: list[int]) -> list[tuple[int, int]]:
    """Every length with the place where its part ends."""
    stop, found = 0, []
    for length in lengths:
        stop += length
        found.append((length, stop))
    return found
