"""Head norm and rotary positions in C: one pass over memory forward, one backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recrl.kernels.native import call, kind


def norm_rotary(x: Tensor, weight: Tensor | None, cos: Tensor, sin: Tensor, eps: float, reuse: bool = False) -> Tensor:
    """See ``reference.norm_rotary``."""
    assert x.shape[3] % 2 == 0
    assert cos.dtype == sin.dtype
    assert cos.shape == sin.shape == (cos.shape[0], x.shape[1], x.shape[3])
    assert cos.shape[0] in (1, x.shape[0])
    x, cos, sin = _heads(x), cos.contiguous(), sin.contiguous()
    weight = None if weight is None else weight.contiguous()
    if not torch.is_grad_enabled():
        room = x if reuse and x.is_contiguous() else x.new_empty(x.shape)
        return _turned(x, weight, cos, sin, eps, room, None)
    out: Tensor = _NormRotary.apply(x, weight, cos, sin, eps)  # type: ignore[no-untyped-call]
    return out


def _turned(
    x: Tensor, weight: Tensor | None, cos: Tensor, sin: Tensor, eps: float, out: Tensor, inverse: Tensor | None
) -> Tensor:
    """The op, into ``out``, which may be ``x``; 1 / rms of every head goes to ``inverse``."""
    batch, tokens, heads, size = x.shape
    sizes = (batch * tokens, tokens, heads, size)
    call(
        "norm_rotary_forward",
        *(x, kind(x), *x.stride()[:3], weight, kind(weight), *_angles(cos, sin), *sizes, eps, out, inverse),
    )
    return out


class _NormRotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
        inverse = None if weight is None else x.new_empty(x.shape[:3], dtype=torch.float32)
        out = _turned(x, weight, cos, sin, eps, x.new_empty(x.shape), inverse)
        ctx.save_for_backward(x, weight, cos, sin, inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, weight, cos, sin, inverse = ctx.saved_tensors
        gradient = _heads(gradient)
        batch, tokens, heads, size = x.shape
        of_x = x.new_empty(x.shape)
        of_weight = None if weight is None else inverse.new_empty(size)
        angles = _angles(cos, sin)
        sizes = (batch * tokens, tokens, heads, size)
        call(
            "norm_rotary_backward",
            *(gradient, kind(gradient), *gradient.stride()[:3], x, kind(x), *x.stride()[:3], weight, kind(weight)),
            *(*angles, *sizes, inverse, of_x, of_weight),
        )
        return of_x, None if of_weight is None else of_weight.to(weight.dtype), None, None, None


def _heads(states: Tensor) -> Tensor:
    """The entries of a head side by side; the other axes may lie in any order, as those of attention's gradients do."""
    return states if states.stride(-1) == 1 else states.contiguous()


def _angles(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """What C is told of the angles: where they are, their type, and elements from one row's to the next's."""
    return cos, sin, kind(cos), 0 if cos.shape[0] == 1 else cos.stride(0)
