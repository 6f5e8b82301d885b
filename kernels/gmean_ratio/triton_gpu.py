"""Sequence-level importance ratio as two fused Triton kernels; ``reference.py`` is the specification.

Torch writes the difference, the masked difference and both sums to memory; here a row is read once and one number
leaves.

Letters: N responses, R tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from recrl.kernels.launches import FLOATS, Launch


@triton.jit
def _forward(
    logp: tl.tensor,
    logp_old: tl.tensor,
    ratio: tl.tensor,
    count: tl.tensor,
    mask: tl.tensor,
    responses: tl.tensor,
    tokens: tl.tensor,
    block_n: tl.constexpr,
    block_r: tl.constexpr,
) -> None:
    """A program owns block_n responses and walks over their tokens."""
    row = tl.program_id(0) * block_n + tl.arange(0, block_n)
    inside = row < responses
    begin = row.to(tl.int64)[:, None] * tokens
    total = tl.zeros((block_n,), tl.float32)
    number = tl.zeros((block_n,), tl.int32)
    for first in range(0, tokens, block_r):
        column = (first + tl.arange(0, block_r))[None, :]
        chosen = tl.load(mask + begin + column, mask=inside[:, None] & (column < tokens), other=0) != 0
        # A masked load, not a product: what is outside the mask may be -inf.
        new = tl.load(logp + begin + column, mask=chosen, other=0.0).to(tl.float32)
        old = tl.load(logp_old + begin + column, mask=chosen, other=0.0).to(tl.float32)
        total += tl.sum(new - old, 1)
        number += tl.sum(chosen.to(tl.int32), 1)
    tl.store(ratio + row, tl.exp(total / tl.maximum(number, 1)), mask=inside)
    tl.store(count + row, number, mask=inside)


@triton.jit
def _backward(
    grad: tl.tensor,
    ratio: tl.tensor,
    count: tl.tensor,
    mask: tl.tensor,
    grad_logp: tl.tensor,
    responses: tl.tensor,
    tokens: tl.tensor,
    block_n: tl.constexpr,
    block_r: tl.constexpr,
) -> None:
    """Every token of a response gets the same share of its gradient: d ratio / d logp = ratio / count."""
    row = tl.program_id(0) * block_n + tl.arange(0, block_n)
    inside = row < responses
    begin = row.to(tl.int64)[:, None] * tokens
    number = tl.load(count + row, mask=inside, other=1)
    share = tl.load(grad + row, mask=inside, other=0.0) * tl.load(ratio + row, mask=inside, other=0.0)
    share = share / tl.maximum(number, 1)
    for first in range(0, tokens, block_r):
        column = (first + tl.arange(0, block_r))[None, :]
        there = inside[:, None] & (column < tokens)
        chosen = tl.load(mask + begin + column, mask=there, other=0) != 0
        value = tl.where(chosen, share[:, None], 0.0)
        tl.store(grad_logp + begin + column, value.to(grad_logp.dtype.element_ty), mask=there)


_TILE = {"block_n": 4, "block_r": 256}
_KEPT = {"ratio": "*fp32", "count": "*i32", "mask": "*i1"}
_SIZES = {"responses": "i32", "tokens": "i32"}


def _forward_launch(dtype: str) -> Launch:
    signature = {"logp": f"*{dtype}", "logp_old": f"*{dtype}", **_KEPT, **_SIZES}
    return Launch(f"gmean_ratio forward {dtype}", _forward, signature, _TILE, num_warps=4, num_stages=2)


def _backward_launch(dtype: str) -> Launch:
    signature = {"grad": "*fp32", **_KEPT, "grad_logp": f"*{dtype}", **_SIZES}
    return Launch(f"gmean_ratio backward {dtype}", _backward, signature, _TILE, num_warps=4, num_stages=2)


_FORWARD = {dtype: _forward_launch(name) for dtype, name in FLOATS.items()}
_BACKWARD = {dtype: _backward_launch(name) for dtype, name in FLOATS.items()}
LAUNCHES = (*_FORWARD.values(), *_BACKWARD.values())


class _GmeanRatio(torch.autograd.Function):
    """Both kernels as one node of the graph; its inputs are contiguous and of one float type."""

    @staticmethod
    def forward(ctx: Any, logp: Tensor, logp_old: Tensor, mask: Tensor) -> Tensor:
        ratio = logp.new_empty(len(logp), dtype=torch.float32)
        count = logp.new_empty(len(logp), dtype=torch.int32)
        if len(logp):
            _FORWARD[logp.dtype].run(_grid(logp), logp, logp_old, ratio, count, mask, *logp.shape)
        ctx.save_for_backward(ratio, count, mask)
        ctx.dtype = logp.dtype
        return ratio

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        ratio, count, mask = ctx.saved_tensors
        grad_logp = torch.empty_like(mask, dtype=ctx.dtype)
        if len(mask):
            arguments = (grad.contiguous(), ratio, count, mask, grad_logp)
            _BACKWARD[ctx.dtype].run(_grid(mask), *arguments, *mask.shape)
        return grad_logp, None, None


def _grid(rows: Tensor) -> tuple[int]:
    return (triton.cdiv(len(rows), _TILE["block_n"]),)


def gmean_ratio(logp: Tensor, logp_old: Tensor, mask: Tensor) -> Tensor:
    """As ``reference.gmean_ratio``: [N, R] log-probabilities, new and old, and their mask -> [N] float32 ratios."""
    compiled = logp.dtype == logp_old.dtype and logp.dtype in FLOATS
    dtype = logp.dtype if compiled else torch.float32  # in which the reference computes everything
    apply: Callable[..., Tensor] = _GmeanRatio.apply
    return apply(logp.to(dtype).contiguous(), logp_old.to(dtype).contiguous(), mask.contiguous())
