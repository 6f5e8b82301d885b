"""The op in C where no gradient is asked for, as in beams; else ``explicit``."""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.kernels.native import call
from recrl.kernels.prefix_attention import explicit


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
    """See ``reference.prefix_attention``."""
    states = (query, prompt_key, prompt_value, own_key, own_value)
    trained = torch.is_grad_enabled() and any(part.requires_grad for part in states)
    if trained or any(part.dtype != torch.float32 for part in states):
        return explicit.prefix_attention(*states[:3], prompt_length, *states[3:], scaling=scaling)
    batch, heads, group, new, size = query.shape
    out = torch.empty_like(query)  # in the order that its heads lie in, as the layer behind wants them
    grids = [query, prompt_key.unsqueeze(2), prompt_value.unsqueeze(2), own_key, own_value, out]
    grids = [grid if grid.stride(-1) == 1 else grid.contiguous() for grid in grids]  # held: C reads their memory
    told = [value for grid in grids for value in _told(grid)]
    sizes = (batch, heads, prompt_key.shape[1], group, new, own_key.shape[3], size)
    call("prefix_forward", *told, prompt_length.contiguous(), *sizes, scaling)
    return out


def _told(grid: Tensor) -> list[Tensor | int]:
    """What C is told of a [B, H, W, K, D] tensor: where, and elements from one to the next on the first four axes."""
    return [grid, *grid.stride()[:4]]
