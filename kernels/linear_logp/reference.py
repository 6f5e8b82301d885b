"""Hidden states times the output matrix, log-softmax, gather, entropy: the definition of the op in plain torch.

Letters: T tokens, S hidden states, H hidden size, V vocabulary, C legal continuations.
"""

from __future__ import annotations

import torch
from torch import Tensor


def linear_logp(hidden: Tensor, weight: Tensor, target: Tensor, source: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Over the whole vocabulary.

    Args:
        hidden: [S, H].
        weight: [V, H] output matrix.
        target: [T] token ids.
        source: [T] state that predicts each target; None where each state predicts one (S = T).

    Returns:
        [T] natural log-probabilities of the targets, and [T] entropies in nats (no gradient); both float32.
    """
    logp = (hidden @ weight.t()).float().log_softmax(-1)
    with torch.no_grad():
        entropy = -(logp.exp() * logp).sum(-1)
    if source is None:
        return logp.gather(-1, target.unsqueeze(-1)).squeeze(-1), entropy
    return logp[source, target], entropy[source]


def log_normaliser(logits: Tensor) -> Tensor:
    """[S, V] logits -> [S] float32 logarithms of the sums of their exponentials; for rollouts, without a gradient."""
    return logits.float().logsumexp(-1)


def legal_logp(
    hidden: Tensor, weight: Tensor, target: Tensor, legal: Tensor, exists: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Over the legal continuations alone.

    Args:
        hidden: [T, H].
        weight: [V, H] output matrix.
        target: [T] token ids, each among its legal ones.
        legal: [T, C] token ids of the legal continuations.
        exists: [T, C] bool, False where ``legal`` is padding.
        bias: [T, C] added to the logits of the legal continuations; it may carry a gradient.

    Returns:
        As ``linear_logp``.
    """
    logits = (hidden @ weight.t()).float()
    offered = logits.gather(-1, legal)
    if bias is not None:
        offered = offered + bias
    normaliser = offered.masked_fill(~exists, float("-inf"))
    total = normaliser.logsumexp(-1)
    with torch.no_grad():
        logp = normaliser - total.unsqueeze(-1)
        entropy = -torch.where(exists, logp.exp() * logp, 0.0).sum(-1)
    value = logits.gather(-1, target.unsqueeze(-1)).squeeze(-1) - total
    return value if bias is None else value + bias_of(target, legal, exists, bias), entropy


def bias_of(target: Tensor, legal: Tensor, exists: Tensor, bias: Tensor) -> Tensor:
    """[T] what ``bias`` adds to the logit of each target."""
    return torch.where(exists & (legal == target.unsqueeze(-1)), bias, 0.0).sum(-1)
