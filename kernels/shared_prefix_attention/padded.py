"""The op on padded grids: torch's own causal attention for prompts, ``prefix_attention`` for responses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from recrl.kernels.places import take
from recrl.kernels.registry import pick
from recrl.kernels.shared_prefix_attention.rows import PrefixRows

Attention = Callable[..., Tensor]


def shared_prefix_attention(query: Tensor, key: Tensor, value: Tensor, rows: PrefixRows, *, scaling: float) -> Tensor:
    """See ``reference.shared_prefix_attention``; responses take the fastest ``prefix_attention``."""
    return over(pick("prefix_attention", query.device.type).prefix_attention)(query, key, value, rows, scaling=scaling)


def over(prefix_attention: Attention) -> Attention:
    """``shared_prefix_attention`` whose responses are computed by the op given."""
    return partial(_shared, prefix_attention)


def _shared(
    prefix_attention: Attention, query: Tensor, key: Tensor, value: Tensor, rows: PrefixRows, *, scaling: float
) -> Tensor:
    places = rows.prompts
    prompt_key, prompt_value = (places.padded(states[: places.count]).transpose(1, 2) for states in (key, value))
    seen, own_query = _prompts(query, len(key), prompt_key, prompt_value, rows, scaling)
    grid, group = rows.responses
    if not grid.count:
        return seen.to(query.dtype)
    own = [
        grid.padded(_fed(states, rows)).unflatten(1, (group, -1)).permute(0, 3, 1, 2, 4)
        for states in (own_query, key[places.count :], value[places.count :])
    ]  # [B, H or J, W, K, D]
    response = prefix_attention(own[0], prompt_key, prompt_value, rows.prompt_length, own[1], own[2], scaling=scaling)
    fed = grid.flat(response.permute(0, 2, 3, 1, 4).flatten(1, 2))
    return torch.cat([seen.to(query.dtype), fed if rows.shared is None else take(fed, rows.first_use)])


def _prompts(
    query: Tensor, tokens: int, key: Tensor, value: Tensor, rows: PrefixRows, scaling: float
) -> tuple[Tensor, Tensor]:
    """What the prompts' queries see, and the queries of the responses, which stand behind them."""
    places, own = rows.prompts, sum(rows.sizes.own)
    asked, own_query = query[: len(query) - own], query[len(query) - own :]
    if len(query) == tokens:
        whole = _attend(places.padded(asked).transpose(1, 2), key, value, None, scaling)
        return places.flat(whole.transpose(1, 2)), own_query
    if not len(asked):
        return asked, own_query
    real = torch.arange(places.width, device=query.device) < rows.prompt_length[:, None]
    return _attend(asked[:, :, None], key, value, real[:, None, None], scaling).squeeze(2), own_query


def _fed(states: Tensor, rows: PrefixRows) -> Tensor:
    """[U, ...] -> [F, ...]: every response with all of its tokens."""
    return states if rows.shared is None else states.index_select(0, rows.shared)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """torch's attention; causal without a mask."""
    if query.device.type == "cpu":  # the bf16 backward of CPU's SDPA is several times slower than float32's
        query, key, value = query.float(), key.float(), value.float()
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
