"""RMSNorm in plain torch: the definition of the op.

Letters: H hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide every row by its root mean square and scale its entries (arXiv:1910.07467).

    Args:
        x: [..., H].
        weight: [H].
        eps: added to the mean square.

    Returns:
        [..., H] in the dtype of ``x``; the arithmetic is in float32.
    """
    wide = x.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * inverse * weight.float()).to(x.dtype)


def add_rms_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """What a residual stream becomes, and the norm of it that the next block reads.

    Args:
        x: [..., H] the stream.
        added: [..., H] what the block before adds to it; None where ``x`` has it already.
        weight: [H].
        eps: added to the mean square.

    Returns:
        The sum and its ``rms_norm``, both [..., H] in the dtype that torch gives a sum of the two.
    """
    total = x if added is None else x + added
    return total, rms_norm(total, weight, eps)
