"""Places of the active rows in the packed layout on Ascend; ``reference.py`` is the specification.

The kernels are those of ``triton_gpu.py``, but a grid ends at 65,535 programs.

Letters: B prompts, G responses, K prompts with an active row, N active rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.kernels.launches import ASCEND_PROGRAMS
from recrl.kernels.pack_active import triton_gpu

LAUNCHES = triton_gpu.LAUNCHES
MOST_PROMPTS = ASCEND_PROGRAMS
"""Of a launch; a program owns one."""


def pack_active(active: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``reference.pack_active``: [B, G] bool -> [K] prompts, [N] prompt, slot and response of every active row."""
    parts, num_prompts, num_kept = [], 0, 0
    for part in active.split(MOST_PROMPTS):
        kept, prompt_of, slot, response = triton_gpu.pack_active(part)
        parts.append((kept + num_prompts, prompt_of + num_kept, slot, response))
        num_prompts, num_kept = num_prompts + len(part), num_kept + len(kept)
    kept, prompt_of, slot, response = (torch.cat(column) for column in zip(*parts, strict=True))
    return kept, prompt_of, slot, response
