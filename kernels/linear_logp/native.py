"""``chunked`` with its passes over logits in C: one over memory where plain torch takes five."""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.kernels.linear_logp import chunked
from recrl.kernels.linear_logp.chunked import Passes
from recrl.kernels.linear_logp.chunked import legal_logp as legal_logp
from recrl.kernels.native import TYPES, call, kind


class _NativePasses(Passes):
    def sums(self, logits: Tensor, sums: Tensor) -> None:
        call("logit_sums", logits, kind(logits), *logits.shape, *sums)

    def shares(self, logits: Tensor, shift: Tensor, factor: Tensor, out: Tensor) -> None:
        call("logit_shares", logits, kind(logits), *logits.shape, shift, factor, out)


def linear_logp(hidden: Tensor, weight: Tensor, target: Tensor, source: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As ``chunked.linear_logp``."""
    passes = _NativePasses if hidden.dtype in TYPES and weight.dtype in TYPES else Passes
    return chunked.linear_logp(hidden, weight, target, source, passes=passes)


def log_normaliser(logits: Tensor) -> Tensor:
    """See ``reference.log_normaliser``."""
    assert not logits.requires_grad or not torch.is_grad_enabled(), "it has no gradient"
    logits = logits.contiguous()
    sums = logits.new_empty(3, len(logits), dtype=torch.float32)
    call("logit_sums", logits, kind(logits), *logits.shape, *sums)
    return sums[0] + sums[1].log()
