"""What the Triton files of the two-part attention share on the host: their launches and the node of the graph.

The device code, and how it works, is in ``triton_kernels.py``. Letters as in the reference; S = H / J query heads a key
head, L = G * K own keys of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
Tile = tuple[int, int, int, int]
"""Queries and keys of a tile, warps, stages."""
Table = Mapping[tuple[str, int], Mapping[str, Launch]]
"""The launches of a file by type of the inputs and width: ``forward``, ``query``, ``prompt`` and ``own``."""
_MATRICES = {"query", "key", "value", "prompt_key", "prompt_value", "own_key", "own_value", "result", "grad"}
_MATRICES |= {f"grad_{name}" for name in ("query", "key", "value")}
_TYPES = {"prompt_length": "*i64", "log_sum": "*fp32", "delta": "*fp32", "scaling": "fp32"}


def launches(tiles: Mapping[str, tuple[Tile, Tile]], *, precision: str, by_head: bool, strided: bool) -> Table:
    """All launches of a file.

    Args:
        tiles: for every type, the tile of programs that own queries and of those that own keys.
        precision: of products of float32.
        by_head: the queries of a key head lie together; else they lie token by token, as a projection leaves them.
        strided: a program may own several tiles.
    """
    constants: dict[str, str | bool] = {"precision": precision, "by_head": by_head, "strided": strided}
    kernels: dict[str, tuple[str, Any, dict[str, bool]]] = {
        "forward": ("forward", forward, {}),
        "query": ("backward query", backward_query, {}),
        "prompt": ("backward prompt key", backward_key, {"of_prompt": True}),
        "own": ("backward own key", backward_key, {"of_prompt": False}),
    }
    return {
        (dtype, width): {
            key: _launch(f"{name} {dtype} D{width}", function, dtype, width, tiles[dtype], {**constants, **part})
            for key, (name, function, part) in kernels.items()
        }
        for dtype in FLOATS.values()
        for width in WIDTHS
    }


def _launch(
    name: str, function: Any, dtype: str, width: int, tiles: tuple[Tile, Tile], flags: dict[str, str | bool]
) -> Launch:
    block_q, block_k, warps, stages = tiles[function is backward_key]
    known = {**flags, "block_q": block_q, "block_k": block_k, "width": width}
    constants = {argument: known[argument] for argument in function.arg_names if argument in known}
    types = {**dict.fromkeys(_MATRICES, f"*{dtype}"), **_TYPES}  # the others are sizes and strides
    signature = {argument: types.get(argument, "i32") for argument in function.arg_names if argument not in known}
    return Launch(f"prefix_attention {name}", function, signature, constants, warps, stages)


@dataclass(frozen=True)
class _Call:
    """What all launches of one call have in common."""

    kernels: Mapping[str, Launch]
    programs: int | None
    """Most programs of a launch; without it, one a tile: all in the grid's x, as y and z end at 65,535."""
    sizes: tuple[int | float, ...]
    """R, J, S, Q, K, D in units, and the scaling."""

    def run(self, kernel: str, lines: int, key: Tensor, *arguments: Any) -> None:
        """Work on the tiles of ``lines`` of every key head."""
        launch = self.kernels[kernel]
        block = launch.constants["block_k" if launch.function is backward_key else "block_q"]
        tiles = triton.cdiv(lines, block) * key.shape[0] * key.shape[1]
        if tiles:
            launch.run((min(tiles, self.programs or tiles),), *arguments, *self.sizes, tiles)


def _strides(key: Tensor) -> tuple[int, ...]:
    return tuple(stride // UNIT.value for stride in key.stride()[:3])


class _PrefixAttention(torch.autograd.Function):
    """All kernels as one node of the graph.

    It takes contiguous queries in the order of lines, the keys and values of the prompt [B, J, P, D], its length, those
    of the responses [B, J, L, D], both as ``_readable`` leaves them; it gives the results in the order of the queries.
    """

    @staticmethod
    def forward(ctx: Any, call: _Call, *inputs: Tensor) -> Tensor:
        query, prompt_key, _, _, own_key, _ = inputs
        ctx.call, ctx.rows = call, int(call.sizes[0])
        result, log_sum = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
        strides = (*_strides(prompt_key), *_strides(own_key))
        call.run("forward", ctx.rows, own_key, *inputs, result, log_sum, *strides)
        ctx.save_for_backward(*inputs, result, log_sum)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, prompt_key, prompt_value, length, own_key, own_value, _, log_sum = ctx.saved_tensors
        grad, grad_query, delta = grad.contiguous(), torch.empty_like(query), torch.empty_like(log_sum)
        strides = (*_strides(prompt_key), *_strides(own_key))
        ctx.call.run("query", ctx.rows, own_key, *ctx.saved_tensors, grad, delta, grad_query, *strides)
        grads = []
        for part, key, value in (("prompt", prompt_key, prompt_value), ("own", own_key, own_value)):
            grad_key, grad_value = (query.new_empty(key.shape) for _ in range(2))
            arguments = (query, key, value, length, log_sum, grad, delta, grad_key, grad_value)
            ctx.call.run(part, key.shape[2], key, *arguments, *_strides(key), key.shape[2])
            grads += [grad_key, grad_value]
        return None, grad_query, grads[0], grads[1], None, grads[2], grads[3]


def _readable(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Both as they are where one set of whole strides serves them, else copied."""
    if (
        key.stride() == value.stride()
        and key.stride(3) == 1
        and not any(step % UNIT.value for step in key.stride()[:3])
    ):
        return key, value
    return key.contiguous(), value.contiguous()


def _matrices(states: tuple[Tensor, ...], name: str) -> tuple[Tensor, ...]:
    """The inputs in the type that autocast wants, their heads filled with zeros to whole units: these add nothing."""
    size, device = states[0].shape[-1], states[0].device.type
    if size > WIDTHS[-1]:
        raise UserError(
            f"kernel prefix_attention = {name!r} was given heads of {size}",
            why=f"its tiles hold {WIDTHS[-1]}",
            fix="take the kernel 'reference'",
        )
    if torch.is_autocast_enabled(device):
        states = tuple(matrix.to(torch.get_autocast_dtype(device)) for matrix in states)
    if size % UNIT.value:
        states = tuple(functional.pad(matrix, (0, -size % UNIT.value)) for matrix in states)
    return states


def attend(
    states: tuple[Tensor, ...], prompt_length: Tensor, scaling: float, *, name: str, table: Table, programs: int | None
) -> Tensor:
    """As ``reference.prefix_attention``; ``states`` are the query, then keys and values of prompts and of responses.

    Keys and values are read where they are, contiguous or transposed. Under autocast its type is taken. No head size is
    too small; those that 16 does not divide cost a copy.

    Args:
        name: of the file, to the user.
        table: its launches.
        programs: most programs of a launch, if its kernels are strided.

    Raises:
        UserError: the inputs are not all float32 or all bfloat16, or the head size is above 128.
    """
    query, prompt_key, prompt_value, own_key, own_value = _matrices(states, name)
    size, key_heads = query.shape[-1], own_key.shape[1]
    width = next(width for width in WIDTHS if width >= size)
    kernels = table[float_name(query, prompt_key, prompt_value, own_key, own_value), width]
    query = query.unflatten(1, (key_heads, query.shape[1] // key_heads))
    shared, group, new = query.shape[2:5]
    # [B, J, S, G, Q, D] become [B, J, G, Q, S, D] or [B, G, Q, J, S, D], and again what they were.
    there, back = _BY_HEAD if kernels["forward"].constants["by_head"] else _BY_TOKEN
    sizes = (group * new * shared, key_heads, shared, new, own_key.shape[3], size // UNIT.value, scaling)
    prompt = _readable(prompt_key, prompt_value)
    length = prompt_length.clamp(max=prompt_key.shape[2]).to(torch.int64)
    responses = _readable(own_key.flatten(2, 3), own_value.flatten(2, 3))
    apply: Callable[..., Tensor] = _PrefixAttention.apply
    result = apply(_Call(kernels, programs, sizes), query.permute(there).contiguous(), *prompt, length, *responses)
    return result[..., : states[0].shape[-1]].to(states[0].dtype).permute(back).flatten(1, 2)


_BY_HEAD = ((0, 1, 3, 4, 2, 5), (0, 1, 4, 2, 3, 5))
_BY_TOKEN = ((0, 3, 4, 1, 2, 5), (0, 3, 4, 1, 2, 5))
