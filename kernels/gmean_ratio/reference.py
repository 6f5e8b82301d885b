"""Sequence-level importance ratio, the geometric mean of the tokens' ratios: the definition of the op in plain torch.

Letters: N responses, R tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gmean_ratio(logp: Tensor, logp_old: Tensor, mask: Tensor) -> Tensor:
    """``exp(mean(logp - logp_old))`` over the tokens of every response (GSPO, arXiv:2507.18071, Eq. 7; SAGE, Eq. 6).

    Args:
        logp: [N, R] natural log-probabilities; the only argument that carries a gradient.
        logp_old: [N, R].
        mask: [N, R] bool, True at the response's own tokens; what is elsewhere, be it -inf, is not read.

    Returns:
        [N] float32; 1 for a response without tokens, whose gradient is 0.
    """
    difference = torch.where(mask, logp.float() - logp_old.float(), 0.0)
    return (difference.sum(1) / mask.sum(1).clamp(min=1)).exp()
