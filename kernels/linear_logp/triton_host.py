"""What the Triton files do around their launches over the whole vocabulary: types, padding, parts, the graph's node.

Letters: T tokens, H hidden size, V vocabulary, S splits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recrl.kernels.launches import Launch, float_name
from recrl.kernels.linear_logp.sizes import WORKSPACE


@dataclass(frozen=True)
class Kernels:
    """The launches of one file for inputs of one type."""

    forward: Launch
    """Leaves ``statistics`` [4, S, T]: what ``triton_gpu.py`` says of its own."""
    dlogits: Launch
    """Leaves the gradient [T, end - begin] of the logits in some columns."""
    grid: Callable[[int, int], tuple[int, ...]]
    """What to launch on so many tiles of tokens and of columns."""
    programs: int
    """Programs that a forward splits the vocabulary for."""


class _LinearLogp(torch.autograd.Function):
    """The inputs are contiguous, of one float type, and their width fills whole blocks."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, kernels: Kernels) -> tuple[Tensor, Tensor]:
        largest, total, weighted, chosen = _statistics(kernels, hidden, weight, target)  # [S, T] each
        peak = largest.amax(0)
        shrink = (largest - peak).exp()
        weighted = (shrink * (weighted + (largest - peak) * total)).sum(0)
        total = (shrink * total).sum(0)
        normaliser = peak + total.log()
        logp, entropy = chosen.amax(0) - normaliser, total.log() - weighted / total
        ctx.save_for_backward(hidden, weight, target, normaliser)
        ctx.kernels = kernels
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, target, normaliser = ctx.saved_tensors
        wants_hidden, wants_weight, *_ = ctx.needs_input_grad
        dhidden = torch.zeros_like(hidden, dtype=torch.float32) if wants_hidden else None
        dweight = torch.zeros_like(weight) if wants_weight else None
        slopes = grad.contiguous()
        with torch.autocast(hidden.device.type, enabled=False):
            for begin, end, dlogits in dlogits_in_parts(ctx.kernels, hidden, weight, target, normaliser, slopes):
                if dhidden is not None:
                    dhidden += dlogits @ weight[begin:end]
                if dweight is not None:
                    torch.mm(dlogits.t(), hidden, out=dweight[begin:end])
        return dhidden if dhidden is None else dhidden.to(hidden.dtype), dweight, None, None


def _statistics(kernels: Kernels, hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """[4, S, T] of the forward kernel."""
    tokens, vocabulary = len(hidden), len(weight)
    tile = kernels.forward.constants
    rows, blocks = triton.cdiv(tokens, tile["block_t"]), triton.cdiv(vocabulary, tile["block_v"])
    share = triton.cdiv(blocks, triton.cdiv(kernels.programs, max(rows, 1))) * tile["block_v"]
    splits = triton.cdiv(vocabulary, share)
    statistics = hidden.new_empty(4, splits, tokens, dtype=torch.float32)
    if tokens:
        steps = hidden.shape[1] // tile["block_h"]
        grid = kernels.grid(rows, splits)
        kernels.forward.run(grid, hidden, weight, target, statistics, tokens, vocabulary, steps, share)
    return statistics


def dlogits_in_parts(
    kernels: Kernels, hidden: Tensor, weight: Tensor, target: Tensor, normaliser: Tensor, grad: Tensor
) -> Iterator[tuple[int, int, Tensor]]:
    """Columns [begin, end) and the gradient [T, end - begin] of their logits, part by part, in one workspace."""
    tokens, vocabulary = len(hidden), len(weight)
    if not tokens:
        return
    tile = kernels.dlogits.constants
    block_t, block_v = tile["block_t"], tile["block_v"]
    steps = hidden.shape[1] // tile["block_h"]
    part = min(max(WORKSPACE // tokens // block_v, 1) * block_v, vocabulary)
    workspace = hidden.new_empty(tokens * part)
    for begin in range(0, vocabulary, part):
        end = min(begin + part, vocabulary)
        dlogits = workspace[: tokens * (end - begin)].view(tokens, end - begin)
        grid = kernels.grid(triton.cdiv(tokens, block_t), triton.cdiv(end - begin, block_v))
        kernels.dlogits.run(grid, hidden, weight, target, normaliser, grad, dlogits, tokens, begin, end, steps)
        yield begin, end, dlogits


def linear_logp(
    hidden: Tensor, weight: Tensor, target: Tensor, kernels_of: Callable[[str], Kernels]
) -> tuple[Tensor, Tensor]:
    """As ``reference.linear_logp``, by the kernels for the inputs' type, which ``float_name`` names.

    Raises:
        UserError: ``hidden`` and ``weight`` are not both float32 or both bfloat16.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):  # as it would do for the reference's matmul
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    kernels = kernels_of(float_name(hidden, weight))
    # Zeros add nothing to a logit; a width of whole blocks spares the kernel a mask on every load.
    padding = (0, -hidden.shape[1] % kernels.forward.constants["block_h"])
    if padding != (0, 0):
        hidden, weight = functional.pad(hidden, padding), functional.pad(weight, padding)
    apply: Callable[..., tuple[Tensor, Tensor]] = _LinearLogp.apply
    return apply(hidden.contiguous(), weight.contiguous(), target.contiguous(), kernels)
