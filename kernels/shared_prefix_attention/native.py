"""The op in C: no padding, no mask, no matrix of weights kept; one task a prompt and key head."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recrl.kernels.native import call, kind
from recrl.kernels.shared_prefix_attention.rows import PrefixRows


def shared_prefix_attention(query: Tensor, key: Tensor, value: Tensor, rows: PrefixRows, *, scaling: float) -> Tensor:
    """See ``reference.shared_prefix_attention``."""
    out: Tensor = _Attention.apply(query, key, value, rows, scaling)  # type: ignore[no-untyped-call]
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: PrefixRows, scaling: float) -> Tensor:
        query, key, value = (_heads(states) for states in (query, key, value))
        out = query.new_empty(query.shape)
        lse = query.new_empty(query.shape[:2], dtype=torch.float32)
        offsets = _offsets(rows)
        call(
            "shared_prefix_forward",
            *_strided(query, key, value),
            *offsets,
            *_sizes(query, key, rows),
            scaling,
            out,
            lse,
        )
        ctx.save_for_backward(query, key, value, out, lse, *offsets)
        ctx.rows, ctx.scaling = rows, scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse, *offsets = ctx.saved_tensors
        gradient = _heads(gradient.to(query.dtype))
        gradients = [states.new_empty(states.shape) for states in (query, key, value)]
        call(
            "shared_prefix_backward",
            *_strided(query, key, value, gradient, out),
            *offsets,
            *_sizes(query, key, ctx.rows),
            ctx.scaling,
            lse,
            *gradients,
        )
        return (*gradients, None, None)


def _heads(states: Tensor) -> Tensor:
    """The entries of a head side by side."""
    return states if states.stride(-1) == 1 else states.contiguous()


def _strided(*parts: Tensor) -> list[Tensor | int]:
    """What C is told of [T, H, D] tensors: where, their type, elements from token to token and from head to head."""
    return [told for states in parts for told in (states, kind(states), states.stride(0), states.stride(1))]


def _offsets(rows: PrefixRows) -> tuple[Tensor, ...]:
    """First token of every prompt [B + 1] and of every prompt's responses [B + 1], token that holds every
    response-prefix token [F], first of these of every response [N + 1], first response of every prompt [B + 1].
    """
    prompts, own = _starts(rows.prompt_length), torch.tensor([0, *rows.sizes.own]).cumsum(0)
    first_own = rows.prompts.count
    return prompts, first_own + own, first_own + rows.own, _starts(rows.row_length), rows.first_row


def _starts(length: Tensor) -> Tensor:
    return F.pad(length, (1, 0)).cumsum(0)


def _sizes(query: Tensor, key: Tensor, rows: PrefixRows) -> tuple[int, ...]:
    without = len(key) - len(query)  # prompt tokens that have no query
    return len(rows.prompt_length), query.shape[1], key.shape[1], query.shape[2], without
