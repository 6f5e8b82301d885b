"""The gated half of a SwiGLU block in plain torch: the definition of the op.

Letters: I intermediate size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def swiglu(gate: Tensor, up: Tensor, reuse: bool = False) -> Tensor:  # noqa: ARG001
    """silu(gate) * up (arXiv:2002.05202).

    Args:
        gate, up: [..., I] of one dtype.
        reuse: nobody else reads ``gate``; where no gradient is wanted the result may take its memory.

    Returns:
        [..., I] in that dtype; the arithmetic is in float32.
    """
    return (F.silu(gate.float()) * up.float()).to(gate.dtype)
