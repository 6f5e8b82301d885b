"""RMSNorm in C: one pass over memory forward, one backward, the sum of a residual stream among them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recrl.kernels.native import call, kind


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See ``reference.rms_norm``."""
    return add_rms_norm(x, None, weight, eps)[1]


def add_rms_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See ``reference.add_rms_norm``."""
    if added is not None:
        assert added.shape == x.shape
        x = x.to(torch.promote_types(x.dtype, added.dtype))
    if not torch.is_grad_enabled():
        return _normed(x.contiguous(), added, weight.contiguous(), eps, None)
    pair: tuple[Tensor, Tensor] = _AddRmsNorm.apply(x, added, weight, eps)  # type: ignore[no-untyped-call]
    return pair


class _AddRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x, weight = x.contiguous(), weight.contiguous()
        inverse = x.new_empty(x.numel() // weight.numel(), dtype=torch.float32)
        total, out = _normed(x, added, weight, eps, inverse)
        ctx.save_for_backward(total, weight, inverse)
        ctx.added = None if added is None else added.dtype
        ctx.set_materialize_grads(False)  # where only the norm is read, nothing comes by way of the sum
        return total, out

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_total: Tensor | None, of_out: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        of_out = torch.zeros_like(x) if of_out is None else of_out.contiguous()
        of_total = None if of_total is None else of_total.contiguous()
        rows, width = inverse.numel(), weight.numel()
        of_x, of_weight = torch.empty_like(x), inverse.new_empty(width)
        parts = (of_out, kind(of_out), of_total, kind(of_total), x, kind(x), weight, kind(weight))
        call("rms_norm_backward", *parts, inverse, rows, width, of_x, of_weight)
        return of_x, None if ctx.added is None else of_x.to(ctx.added), of_weight.to(weight.dtype), None


def _normed(
    x: Tensor, added: Tensor | None, weight: Tensor, eps: float, inverse: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The sum and its norm, of contiguous ``x`` and ``weight``; 1 / rms of every row goes to ``inverse``."""
    added = None if added is None else added.contiguous()
    total, out = x if added is None else torch.empty_like(x), torch.empty_like(x)
    width = weight.numel()
    parts = (x, kind(x), added, kind(added), weight, kind(weight))
    call("rms_norm_forward", *parts, x.numel() // width, width, eps, total, out, inverse)
    return total, out
