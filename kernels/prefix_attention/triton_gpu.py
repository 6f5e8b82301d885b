"""Two-part attention as Triton kernels, forward and backward; ``reference.py`` is the meaning.

Here are the launch table and the node of the graph; the device code, and how it works, is in ``triton_kernels.py``.

Letters as in the reference; M = G * Q queries and L = G * K own keys of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recrl.errors import UserError
from recrl.kernels.launches import FLOATS, Launch, float_name
from recrl.kernels.prefix_attention.triton_kernels import UNIT, backward_key, backward_query, forward

WIDTHS = (32, 64, 128)
"""Columns of a tile; a head takes the narrowest that holds it."""
_TILES = {  # queries and keys of a tile, warps, stages; of programs that own queries, and of those that own keys
    # The three products of tf32x3 hold three times the registers: larger tiles of float32 spill.
    "fp32": ((16, 32, 4, 1), (32, 16, 8, 1)),
    "bf16": ((64, 64, 8, 2), (32, 64, 8, 2)),
}
_MATRICES = {"query", "key", "value", "prompt_key", "prompt_value", "own_key", "own_value", "result", "grad"}
_MATRICES |= {f"grad_{name}" for name in ("query", "key", "value")}
_TYPES = {"prompt_length": "*i64", "log_sum": "*fp32", "delta": "*fp32", "scaling": "fp32"}


def _launch(name: str, function: Any, dtype: str, width: int, **flags: bool) -> Launch:
    block_q, block_k, warps, stages = _TILES[dtype][function is backward_key]
    constants = {**flags, "block_q": block_q, "block_k": block_k, "width": width}
    types = {**dict.fromkeys(_MATRICES, f"*{dtype}"), **_TYPES}  # the others are sizes and strides
    signature = {name: types.get(name, "i32") for name in function.arg_names if name not in constants}
    return Launch(f"prefix_attention {name} {dtype} D{width}", function, signature, constants, warps, stages)


def _launches(dtype: str, width: int) -> dict[str, Launch]:
    """The kernels for inputs of one type and heads of up to ``width``."""
    return {
        "forward": _launch("forward", forward, dtype, width),
        "query": _launch("backward query", backward_query, dtype, width),
        "prompt": _launch("backward prompt key", backward_key, dtype, width, of_prompt=True),
        "own": _launch("backward own key", backward_key, dtype, width, of_prompt=False),
    }


_TABLE = {(dtype, width): _launches(dtype, width) for dtype in FLOATS.values() for width in WIDTHS}
LAUNCHES: tuple[Launch, ...] = tuple(launch for kernels in _TABLE.values() for launch in kernels.values())


def _run(kernel: str, lines: int, query: Tensor, key: Tensor, *arguments: Any) -> None:
    """A program for every tile of ``lines`` of every key head; all in the grid's x, as y and z end at 65,535."""
    width = next(width for width in WIDTHS if width >= query.shape[-1])
    launch = _TABLE[float_name(query), width][kernel]
    block = launch.constants["block_k" if launch.function is backward_key else "block_q"]
    programs = triton.cdiv(lines, block) * key.shape[0] * key.shape[1]
    if programs:
        launch.run((programs,), *arguments)


def _strides(key: Tensor) -> tuple[int, ...]:
    return tuple(stride // UNIT.value for stride in key.stride()[:3])


class _PrefixAttention(torch.autograd.Function):
    """All kernels as one node of the graph.

    It takes [B, M, H, D] contiguous queries, the keys and values of the prompt [B, J, P, D], its length, and those of
    the responses [B, J, L, D], both as ``_readable`` leaves them, then Q, K and the scaling; it gives [B, M, H, D].
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        query, prompt_key, _, _, own_key, _, new, own, scaling = inputs
        shared = query.shape[2] // own_key.shape[1]
        rows = query.shape[1] * shared
        ctx.shape = (rows, own_key.shape[1], shared, new, own, query.shape[3] // UNIT.value, scaling)
        result, log_sum = torch.empty_like(query), query.new_empty(query.shape[:3], dtype=torch.float32)
        strides = (*_strides(prompt_key), *_strides(own_key))
        _run("forward", rows, query, own_key, *inputs[:6], result, log_sum, *strides, *ctx.shape)
        ctx.save_for_backward(*inputs[:6], result, log_sum)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, prompt_key, prompt_value, length, own_key, own_value, _, log_sum = ctx.saved_tensors
        grad, grad_query, delta = grad.contiguous(), torch.empty_like(query), torch.empty_like(log_sum)
        strides = (*_strides(prompt_key), *_strides(own_key))
        arguments = (*ctx.saved_tensors, grad, delta, grad_query, *strides, *ctx.shape)
        _run("query", ctx.shape[0], query, own_key, *arguments)
        grads = []
        for part, key, value in (("prompt", prompt_key, prompt_value), ("own", own_key, own_value)):
            grad_key, grad_value = (query.new_empty(key.shape) for _ in range(2))
            arguments = (query, key, value, length, log_sum, grad, delta, grad_key, grad_value)
            _run(part, key.shape[2], query, key, *arguments, *_strides(key), key.shape[2], *ctx.shape)
            grads += [grad_key, grad_value]
        return grad_query, grads[0], grads[1], None, grads[2], grads[3], None, None, None


def _readable(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Both as they are where one set of whole strides serves them, else copied."""
    if (
        key.stride() == value.stride()
        and key.stride(3) == 1
        and not any(step % UNIT.value for step in key.stride()[:3])
    ):
        return key, value
    return key.contiguous(), value.contiguous()


def prefix_attention(
    query: Tensor,
    prompt_key: Tensor,
    prompt_value: Tensor,
    prompt_length: Tensor,
    own_key: Tensor,
    own_value: Tensor,
    *,
    scaling: float,
) -> Tensor:
    """As ``reference.prefix_attention``: [B, H, G, Q, D] queries, [B, J, P, D] and [B, J, G, K, D] keys and values.

    Keys and values are read where they are, contiguous or transposed. Under autocast its type is taken. No head size is
    too small; those that 16 does not divide cost a copy.

    Raises:
        UserError: the inputs are not all float32 or all bfloat16, or the head size is above 128.
    """
    batch, heads, group, new, size = query.shape
    if size > WIDTHS[-1]:
        raise UserError(
            f"kernel prefix_attention = 'triton_gpu' was given heads of {size}",
            why=f"its tiles hold {WIDTHS[-1]}",
            fix="take the kernel 'reference'",
        )
    matrices = [query, prompt_key, prompt_value, own_key, own_value]
    if torch.is_autocast_enabled(query.device.type):
        matrices = [matrix.to(torch.get_autocast_dtype(query.device.type)) for matrix in matrices]
    float_name(*matrices)
    if size % UNIT.value:
        matrices = [functional.pad(matrix, (0, -size % UNIT.value)) for matrix in matrices]
    lines = matrices[0].permute(0, 2, 3, 1, 4).flatten(1, 2).contiguous()
    prompt = _readable(matrices[1], matrices[2])
    own = _readable(matrices[3].flatten(2, 3), matrices[4].flatten(2, 3))
    length = prompt_length.clamp(max=prompt_key.shape[2]).to(torch.int64)
    apply: Callable[..., Tensor] = _PrefixAttention.apply
    result = apply(lines, *prompt, length, *own, new, own_key.shape[3], scaling)[..., :size].to(query.dtype)
    return result.view(batch, group, new, heads, size).permute(0, 3, 1, 2, 4)
