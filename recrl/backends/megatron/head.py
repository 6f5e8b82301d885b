"""The output matrix in parts, one on every rank; logits are never gathered.

A rank computes log-probabilities over its own tokens with the same ops as one process would. Of a token x that it
holds, logit(x) - logp(x) is the logarithm of the rank's sum of exponentials; ranks exchange these sums, the logit from
where the token is, and their entropies: three numbers a token.

Letters: T tokens, S hidden states, H hidden size, V vocabulary, L tokens that the trie knows, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recrl.backends.decoder_policy import Space, chosen_logits
from recrl.kernels.linear_logp.reference import bias_of
from recrl.kernels.ops import Ops


class ShardedHead:
    """See ``recrl.backends.decoder_policy.OutputHead``.

    Args:
        weight: gives this rank's rows of the output matrix, without those that fill it up.
        first: token of the first of them.
        columns: [L] tokens that the trie knows.
        vocabulary: V.
    """

    def __init__(self, weight: Callable[[], Tensor], first: int, ops: Ops, columns: Tensor, vocabulary: int) -> None:
        self._weight = weight
        self._first = first
        self._ops = ops
        rows = len(weight())
        own = columns[(columns >= first) & (columns < first + rows)] - first
        self._column_of = columns.new_full((vocabulary,), -1)  # place among this rank's columns, -1: not here
        self._column_of[own + first] = torch.arange(len(own), device=own.device)
        self._columns = own if len(own) else own.new_zeros(1)  # a rank without any computes one that counts nowhere

    def logp(self, hidden: Tensor, token: Tensor, source: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden, weight = copy_to_tensor_model_parallel_region(hidden), self._weight()
        row, mine = self._row(token)
        logp, entropy = self._ops.linear_logp(hidden, weight, row, source)
        states = hidden if source is None else hidden.index_select(0, source)
        logit = _dot(states, weight, row)
        return _merged(logit, logit - logp, entropy, mine)

    def legal_logp(
        self, hidden: Tensor, token: Tensor, legal: Tensor, exists: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        hidden = copy_to_tensor_model_parallel_region(hidden)
        weight = self._weight().index_select(0, self._columns)
        place, column = self._column_of[token], self._column_of[legal]
        here = exists & (column >= 0)
        some = here.any(-1)
        # Of a row without a legal token on this rank any one stands for all, and its sum is 0 in the end.
        here = torch.cat([here[:, :1] | ~some.unsqueeze(1), here[:, 1:]], 1)
        column = column.clamp(min=0)
        first = column.gather(1, here.to(torch.uint8).argmax(1, keepdim=True)).squeeze(1)
        mine = place >= 0
        target = torch.where(mine, place, first)
        logp, entropy = self._ops.legal_logp(hidden, weight, target, column, here, bias)
        logit = _dot(hidden, weight, target)
        if bias is not None:
            logit = logit + bias_of(target, column, here, bias)
        return _merged(logit, torch.where(some, logit - logp, float("-inf")), entropy, mine)

    def scores(self, hidden: Tensor, candidates: Tensor, space: Space) -> tuple[Tensor, Tensor | None]:
        weight = self._weight()
        if space == "legal":
            place = self._column_of[candidates]
            logits, _ = chosen_logits(hidden, weight[self._columns], place.clamp(min=0), None)
            return _summed(logits.masked_fill_(place < 0, 0.0)), None
        row, mine = self._row(candidates)
        logits, total = chosen_logits(hidden, weight, row, self._ops.log_normaliser)
        assert total is not None
        peak = _largest(total)
        return _summed(logits.masked_fill_(~mine, 0.0)), _summed((total - peak).exp_()).log_().add_(peak)

    def logits(self, hidden: Tensor, candidates: Tensor) -> Tensor:
        row, mine = self._row(candidates)
        states = copy_to_tensor_model_parallel_region(hidden)
        logits = torch.einsum("bwh,bwch->bwc", states, self._weight()[row]).float()
        summed: Tensor = reduce_from_tensor_model_parallel_region(torch.where(mine, logits, 0.0))
        return summed

    def _row(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's row of every token, 0 where it has none, and where it has one."""
        row = token - self._first
        mine = (row >= 0) & (row < len(self._weight()))
        return torch.where(mine, row, 0), mine


def _dot(states: Tensor, weight: Tensor, row: Tensor) -> Tensor:
    """[T, H] states and [T] rows of ``weight`` -> [T] their products in float32, of numbers as a matmul takes them."""
    chosen = functional.embedding(row, weight)
    if torch.is_autocast_enabled(states.device.type):
        dtype = torch.get_autocast_dtype(states.device.type)
        states, chosen = states.to(dtype), chosen.to(dtype)
    return (states.float() * chosen.float()).sum(-1)


def _merged(logit: Tensor, normaliser: Tensor, entropy: Tensor, mine: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies over all ranks' tokens, out of [T] figures over this rank's."""
    logp, spread = _Merge.apply(torch.where(mine, logit, 0.0), normaliser, entropy)  # type: ignore[no-untyped-call]
    return logp, spread


class _Merge(torch.autograd.Function):
    """Every rank goes on with the same results, so that each has the whole gradient of them."""

    @staticmethod
    def forward(ctx: Any, logit: Tensor, normaliser: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor]:
        peak = _largest(normaliser)
        share = (normaliser - peak).exp()
        # Of a rank with share s and entropy h: s (h - log s). Where s is 0 its logarithm is not to be asked for.
        spread = torch.where(share > 0, share * (entropy + peak - normaliser), 0.0)
        logit, share, spread = _summed(torch.stack([logit, share, spread]))
        log_share = share.log()
        total = log_share + peak
        ctx.save_for_backward((normaliser - total).exp())
        entropy = spread / share + log_share
        ctx.mark_non_differentiable(entropy)
        return logit - total, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        (share,) = ctx.saved_tensors
        return upstream, -upstream * share, None


def _summed(figures: Tensor) -> Tensor:
    """Over the ranks of a model, in place."""
    distributed.all_reduce(figures, group=parallel_state.get_tensor_model_parallel_group())
    return figures


def _largest(figures: Tensor) -> Tensor:
    """Over the ranks of a model."""
    peak = figures.clone()
    distributed.all_reduce(peak, distributed.ReduceOp.MAX, group=parallel_state.get_tensor_model_parallel_group())
    return peak
