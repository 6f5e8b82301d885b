"""Hidden states times the output matrix, log-softmax, gather, entropy: the definition of the op in plain torch.

Letters: T tokens, H hidden size, V vocabulary, C legal continuations.
"""

from __future__ import annotations

import torch
from torch import Tensor


def linear_logp(hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Over the whole vocabulary.

    Args:
        hidden: [T, H].
        weight: [V, H] output matrix.
        target: [T] token ids.

    Returns:
        [T] natural log-probabilities of the targets, and [T] entropies in nats (no gradient); both float32.
    """
    logp = (hidden @ weight.t()).float().log_softmax(-1)
    with torch.no_grad():
        entropy = -(logp.exp() * logp).sum(-1)
    return logp.gather(-1, target.unsqueeze(-1)).squeeze(-1), entropy


def legal_logp(hidden: Tensor, weight: Tensor, target: Tensor, legal: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """Over the legal continuations alone.

    Args:
        hidden: [T, H].
        weight: [V, H] output matrix.
        target: [T] token ids, each among its legal ones.
        legal: [T, C] token ids of the legal continuations.
        exists: [T, C] bool, False where ``legal`` is padding.

    Returns:
        As ``linear_logp``.
    """
    logits = (hidden @ weight.t()).float()
    normaliser = logits.gather(-1, legal).masked_fill(~exists, float("-inf"))
    total = normaliser.logsumexp(-1)
    with torch.no_grad():
        logp = normaliser - total.unsqueeze(-1)
        entropy = -torch.where(exists, logp.exp() * logp, 0.0).sum(-1)
    return logits.gather(-1, target.unsqueeze(-1)).squeeze(-1) - total, entropy
