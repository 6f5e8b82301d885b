"""Places of the active rows in the packed layout: the definition of the op in plain torch.

Letters: B prompts, G responses, K prompts with an active row, N active rows.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack_active(active: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which prompts and rows are left when the inactive rows are gone (ReCast's physical filtering, papers.md D-6).

    Args:
        active: [B, G] bool.

    Returns:
        int64 all: [K] prompts that have an active row, ascending; of every active row, prompt by prompt, [N] its prompt
        among those K, [N] its place among its prompt's active rows, and [N] its response number in the group.
    """
    prompt, response = active.nonzero(as_tuple=True)
    kept, prompt_of = torch.unique(prompt, return_inverse=True)
    first = torch.searchsorted(prompt_of, torch.arange(len(kept), device=prompt.device))
    slot = torch.arange(len(prompt), device=prompt.device) - first[prompt_of]
    return kept, prompt_of, slot, response
