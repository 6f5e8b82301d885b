"""Attention over prompts and their responses on one flat row: the definition of the op in plain torch.

Letters: T tokens, H query heads, J key heads (H a multiple of J), D head size; others as in ``rows``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.kernels.shared_prefix_attention.rows import PrefixRows


def shared_prefix_attention(query: Tensor, key: Tensor, value: Tensor, rows: PrefixRows, *, scaling: float) -> Tensor:
    """A prompt's token sees the prompt up to itself; a response's token sees its whole prompt and its response up to
    itself. No response sees another, but for the tokens that they share.

    Args:
        query: [T, H, D], or of some tokens alone: [R, H, D] of ``rows.read``, or [U, H, D] of the responses'.
        key, value: [T, J, D].
        rows: who is who.
        scaling: factor on the scores.

    Returns:
        As ``query``, in its dtype; scores and softmax are in float32.
    """
    if len(query) != len(key):
        asked = rows.read[len(rows.read) - len(query) :]
        every = query.new_zeros(len(key), *query.shape[1:]).index_copy(0, asked, query)
        return shared_prefix_attention(every, key, value, rows, scaling=scaling)[asked]
    share = query.shape[1] // key.shape[1]
    keys, values = (states.float().repeat_interleave(share, 1) for states in (key, value))
    prompts, first_own = len(rows.prompt_length), rows.prompts.count
    prompt_parts = torch.arange(first_own, device=key.device).split(rows.prompt_length.tolist())
    parts = [*prompt_parts, *(first_own + rows.own).split(rows.row_length.tolist())]
    outputs = []
    for number, own in enumerate(parts):
        seen = own if number < prompts else torch.cat([parts[int(rows.prompt_of[number - prompts])], own])
        scores = torch.einsum("qhd,khd->hqk", query[own].float() * scaling, keys[seen])
        hidden = torch.ones(len(own), len(seen), dtype=torch.bool).triu(len(seen) - len(own) + 1)
        weight = scores.masked_fill(hidden.to(scores.device), float("-inf")).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weight, values[seen]))
    out = torch.cat(outputs).to(query.dtype)
    return torch.cat([out[:first_own], out[first_own:][rows.first_use]])
