"""Two-part attention with its gradient written out: one matrix of weights over both parts, kept for the backward pass.

Autograd keeps four such matrices and walks them a dozen times; here it is one, changed in place. Letters as in
``reference``; S is the share of query heads a key head serves (H / J), N the queries of a key head (S * G * Q).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SMALL = 64
"""Q * K up to which products with own tokens are sums over a broadcast: batches of tiny matrices are slower."""


def prefix_attention(
    query: Tensor,
    prompt_key: Tensor,
    prompt_value: Tensor,
    prompt_length: Tensor,
    own_key: Tensor,
    own_value: Tensor,
    *,
    scaling: float,
) -> Tensor:
    """See ``reference.prefix_attention``."""
    states = (query, prompt_key, prompt_value, own_key, own_value)
    wide = [part.float() for part in states]
    out: Tensor = _PrefixAttention.apply(*wide, prompt_length, scaling)  # type: ignore[no-untyped-call]
    return out.to(query.dtype)


class _PrefixAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        prompt_key: Tensor,
        prompt_value: Tensor,
        own_key: Tensor,
        own_value: Tensor,
        prompt_length: Tensor,
        scaling: float,
    ) -> Tensor:
        batch, heads, group, new, size = query.shape
        key_heads, width = prompt_key.shape[1:3]
        grouped = (query * scaling).contiguous().view(batch, key_heads, heads // key_heads, group, new, size)
        flat = grouped.view(batch, key_heads, grouped.shape[2] * group * new, size)
        scores = flat.new_empty(*flat.shape[:3], width + own_key.shape[3])
        to_prompt, to_own = _parts(scores, width, grouped.shape[2:5])
        to_prompt.copy_(flat @ prompt_key.transpose(-1, -2))
        to_own.copy_(_scores(grouped, own_key))
        _mask(to_prompt, to_own, prompt_length)
        weight = scores.softmax(-1)
        from_prompt, from_own = _parts(weight, width, grouped.shape[2:5])
        out = (from_prompt @ prompt_value).view_as(grouped) + _sums(from_own, own_value)
        ctx.save_for_backward(grouped, prompt_key, prompt_value, own_key, own_value, weight, out)
        ctx.scaling = scaling
        return out.view(batch, heads, group, new, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grouped, prompt_key, prompt_value, own_key, own_value, weight, out = ctx.saved_tensors
        width = prompt_key.shape[2]
        gradient = gradients[0].contiguous().view(out.shape)
        flat_gradient = gradient.view(*weight.shape[:3], gradient.shape[-1])
        of_scores = torch.empty_like(weight)
        to_prompt, to_own = _parts(of_scores, width, out.shape[2:5])
        to_prompt.copy_(flat_gradient @ prompt_value.transpose(-1, -2))
        to_own.copy_(_scores(gradient, own_value))
        delta = (gradient * out).sum(-1).view(*weight.shape[:3], 1)
        of_scores.sub_(delta).mul_(weight)
        from_prompt, from_own = _parts(weight, width, out.shape[2:5])
        flat = grouped.view(*weight.shape[:3], grouped.shape[-1])
        of_query = (to_prompt @ prompt_key).view_as(grouped) + _sums(to_own, own_key)
        return (
            of_query.mul_(ctx.scaling).view(gradients[0].shape),
            to_prompt.transpose(-1, -2) @ flat,
            from_prompt.transpose(-1, -2) @ flat_gradient,
            _spread(to_own, grouped),
            _spread(from_own, gradient),
            None,
            None,
        )


def _parts(states: Tensor, width: int, queries: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """[B, J, N, P + K] as [B, J, N, P] and [B, J, S, G, Q, K], views both."""
    return states[..., :width], states.unflatten(2, queries)[..., width:]


def _mask(to_prompt: Tensor, to_own: Tensor, prompt_length: Tensor) -> None:
    """Padding of prompts, and own tokens that come later."""
    padding = torch.arange(to_prompt.shape[-1], device=to_prompt.device) >= prompt_length[:, None]
    to_prompt.masked_fill_(padding[:, None, None, :], float("-inf"))
    new, own = to_own.shape[-2:]
    if new > 1:
        later = torch.ones(new, own, dtype=torch.bool, device=to_own.device).triu(own - new + 1)
        to_own.masked_fill_(later, float("-inf"))


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """[B, J, S, G, Q, D] and [B, J, G, K, D] -> [B, J, S, G, Q, K]."""
    keys = keys.unsqueeze(2)
    if queries.shape[4] * keys.shape[4] <= SMALL:
        return (queries.unsqueeze(5) * keys.unsqueeze(4)).sum(-1)
    return queries @ keys.transpose(-1, -2)


def _sums(weight: Tensor, values: Tensor) -> Tensor:
    """[B, J, S, G, Q, K] and [B, J, G, K, D] -> [B, J, S, G, Q, D]."""
    values = values.unsqueeze(2)
    if weight.shape[4] * weight.shape[5] <= SMALL:
        return (weight.unsqueeze(-1) * values.unsqueeze(4)).sum(-2)
    return weight @ values


def _spread(weight: Tensor, queries: Tensor) -> Tensor:
    """[B, J, S, G, Q, K] and [B, J, S, G, Q, D] -> [B, J, G, K, D]: to every own token from all that saw it."""
    if weight.shape[4] * weight.shape[5] <= SMALL:
        return (weight.unsqueeze(-1) * queries.unsqueeze(5)).sum((2, 4))
    return (weight.transpose(-1, -2) @ queries).sum(2)
