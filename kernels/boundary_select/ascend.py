"""The strongest positive and the hardest negative of every group on Ascend; ``reference.py`` is the specification.

The kernel is that of ``triton_gpu.py``, but Ascend's compiler takes no float64, and a grid ends at 65,535 programs.

Letters: B groups, G responses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.errors import UserError
from recrl.kernels.boundary_select import triton_gpu
from recrl.kernels.launches import ASCEND_PROGRAMS

MOST_GROUPS = ASCEND_PROGRAMS
"""Of a launch; a program owns one."""
LAUNCHES = tuple(launch for launch in triton_gpu.LAUNCHES if "*fp64" not in launch.signature.values())


def boundary_select(reward: Tensor, score: Tensor, logp: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """As ``reference.boundary_select``: [B, G] rewards, scores, log-probabilities and validity -> two [B] indices.

    Raises:
        UserError: one of them is float64, of which float32 would make ties.
    """
    if torch.float64 in {reward.dtype, score.dtype, logp.dtype}:
        raise UserError(
            "kernel boundary_select = 'ascend' was given torch.float64",
            why="Ascend's compiler does not take it",
            fix="pass float32, or take the kernel 'reference'",
        )
    inputs = (tensor.split(MOST_GROUPS) for tensor in (reward, score, logp, valid))
    parts = [triton_gpu.boundary_select(*part) for part in zip(*inputs, strict=True)]
    positive, negative = (torch.cat(column) for column in zip(*parts, strict=True))
    return positive, negative
