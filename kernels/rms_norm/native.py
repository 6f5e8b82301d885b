"""RMSNorm in C: one pass over memory forward, one backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recrl.kernels.native import call, kind


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See ``reference.rms_norm``."""
    out: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        width = weight.numel()
        rows = x.numel() // width
        out, inverse = torch.empty_like(x), x.new_empty(rows, dtype=torch.float32)
        call("rms_norm_forward", x, kind(x), weight, kind(weight), rows, width, eps, out, inverse)
        ctx.save_for_backward(x, weight, inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        gradient = gradient.contiguous()
        rows, width = inverse.numel(), weight.numel()
        of_x, of_weight = torch.empty_like(x), inverse.new_empty(width)
        types = kind(gradient), kind(x), kind(weight)
        call(
            "rms_norm_backward",
            *(gradient, types[0], x, types[1], weight, types[2], inverse, rows, width, of_x, of_weight),
        )
        return of_x, of_weight.to(weight.dtype), None
