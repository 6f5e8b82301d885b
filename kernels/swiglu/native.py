"""silu(gate) * up in C: one pass over memory forward, one backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recrl.kernels.native import call, kind


def swiglu(gate: Tensor, up: Tensor, reuse: bool = False) -> Tensor:
    """See ``reference.swiglu``."""
    assert gate.dtype == up.dtype
    assert gate.shape == up.shape
    if not torch.is_grad_enabled():
        gate = gate.contiguous()
        return _gated(gate, up.contiguous(), gate if reuse else torch.empty_like(gate))
    out: Tensor = _Swiglu.apply(gate, up)  # type: ignore[no-untyped-call]
    return out


def _gated(gate: Tensor, up: Tensor, out: Tensor) -> Tensor:
    call("swiglu_forward", gate, up, kind(gate), gate.numel(), out)
    return out


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return _gated(gate, up, torch.empty_like(gate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        call("swiglu_backward", gradient, kind(gradient), gate, up, kind(gate), gate.numel(), of_gate, of_up)
        return of_gate, of_up
