"""Sequence-level importance ratio on Ascend; ``reference.py`` is the specification.

The kernels are those of ``triton_gpu.py``, but a grid ends at 65,535 programs.

Letters: N responses, R tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.kernels.gmean_ratio import triton_gpu
from recrl.kernels.launches import ASCEND_PROGRAMS

LAUNCHES = triton_gpu.LAUNCHES
MOST_RESPONSES = ASCEND_PROGRAMS * min(launch.constants["block_n"] for launch in LAUNCHES)
"""Of a launch."""


def gmean_ratio(logp: Tensor, logp_old: Tensor, mask: Tensor) -> Tensor:
    """As ``reference.gmean_ratio``: [N, R] log-probabilities, new and old, and their mask -> [N] float32 ratios."""
    inputs = (tensor.split(MOST_RESPONSES) for tensor in (logp, logp_old, mask))
    return torch.cat([triton_gpu.gmean_ratio(*part) for part in zip(*inputs, strict=True)])
