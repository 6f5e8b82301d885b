"""RMSNorm over each head and rotary positions in plain torch: the definition of the op.

Letters: B rows, S tokens of a row, H heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.kernels.rms_norm.reference import rms_norm


def norm_rotary(
    x: Tensor,
    weight: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    reuse: bool = False,  # noqa: ARG001
) -> Tensor:
    """Norm every head of every token, then turn its entries i and i + D/2 by the token's angles (arXiv:2104.09864).

    Args:
        x: [B, S, H, D] queries or keys.
        weight: [D] of the norm; None leaves the norm out.
        cos, sin: [B, S, D], or [1, S, D] for all rows; no gradient flows to them.
        eps: of the norm.
        reuse: nobody else reads ``x``; where no gradient is wanted the result may take its memory.

    Returns:
        [B, S, H, D] contiguous, in the dtype of ``x``; the arithmetic is in float32.
    """
    wide = x.float()
    if weight is not None:
        wide = rms_norm(wide, weight, eps)
    left, right = wide.chunk(2, -1)
    turned = torch.cat([-right, left], -1)
    cos, sin = (angle.detach().float().unsqueeze(2) for angle in (cos, sin))
    return (wide * cos + turned * sin).to(x.dtype)
