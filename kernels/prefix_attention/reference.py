"""Two-part attention in plain torch: the definition of the op.

Letters: B prompts, G responses a prompt, Q new tokens a response, K own tokens a response (K >= Q), P prompt tokens,
H query heads, J key heads (H a multiple of J), D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Every response attends to its prompt and, causally, to itself; one softmax over both parts.

    Nothing of the prompt is copied per response, and no response sees another.

    Args:
        query: [B, H, G, Q, D], the last Q tokens of every response.
        prompt_key, prompt_value: [B, J, P, D], right-padded.
        prompt_length: [B]; keys from there on are padding.
        own_key, own_value: [B, J, G, K, D]; query ``q`` sees own tokens up to ``K - Q + q``.
        scaling: factor on the scores.

    Returns:
        [B, H, G, Q, D] in the dtype of ``query``; scores and softmax are in float32.
    """
    batch, heads, group, new, size = query.shape
    key_heads, width = prompt_key.shape[1], prompt_key.shape[2]
    own = own_key.shape[3]
    shared = heads // key_heads
    grouped = (query.float() * scaling).reshape(batch, key_heads, shared, group, new, size)
    flat = grouped.reshape(batch, key_heads, shared * group * new, size)
    to_prompt = (flat @ prompt_key.float().transpose(-1, -2)).view(batch, key_heads, shared, group, new, width)
    padding = torch.arange(width, device=query.device) >= prompt_length[:, None]  # [B, P]
    to_prompt = to_prompt.masked_fill(padding[:, None, None, None, None, :], float("-inf"))
    to_own = grouped @ own_key.float().unsqueeze(2).transpose(-1, -2)  # [B, J, H/J, G, Q, K]
    if new > 1:
        later = torch.ones(new, own, dtype=torch.bool, device=query.device).triu(own - new + 1)
        to_own = to_own.masked_fill(later, float("-inf"))
    weight = torch.cat([to_prompt, to_own], -1).softmax(-1)
    weight_prompt = weight[..., :width].reshape(batch, key_heads, shared * group * new, width)
    from_prompt = (weight_prompt @ prompt_value.float()).view_as(grouped)
    from_own = weight[..., width:] @ own_value.float().unsqueeze(2)
    return (from_prompt + from_own).reshape(batch, heads, group, new, size).to(query.dtype)
