"""One forward over a prompt and all of its responses, for any Hugging Face decoder.

The attention below is registered with transformers under the name ``recrl``; the model passes every keyword that it
does not know on to it, so a *layout* travels with the call and says who attends to whom. Four layouts cover everything:

- ``Causal``: plain rows (SFT).
- ``SharedPrefix``: ``[prompt | response_1 | ... | response_G]`` in a row (log-probs and updates).
- ``Prefill``: prompts alone; their keys and values stay for ``Extend`` (rollout).
- ``Extend``: one new token for every beam, over the prompt's keys and the beam's own path (rollout).

Rows are right-padded, so under a causal mask no real token sees padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from recrl.kernels.prefix_attention.reference import prefix_attention

ATTENTION = "recrl"


class Layout(Protocol):
    """Who attends to whom in one forward pass."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[B, H, S, D] queries and [B, J, S, D] keys and values -> [B, H, S, D]."""
        ...


@dataclass(frozen=True)
class Causal:
    """Every token sees itself and what is before it."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:  # noqa: ARG002
        return _causal(query, key, value, scaling)


@dataclass(frozen=True)
class SharedPrefix:
    """A row is the prompt (``prompt_width`` places) and then ``group`` responses of the same width."""

    prompt_width: int
    prompt_length: Tensor  # [B]
    group: int

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:  # noqa: ARG002
        width = self.prompt_width
        prompt = _causal(query[:, :, :width], key[:, :, :width], value[:, :, :width], scaling)
        own = (self._responses(states) for states in (query, key, value))
        own_query, own_key, own_value = own
        response = prefix_attention(
            own_query, key[:, :, :width], value[:, :, :width], self.prompt_length, own_key, own_value, scaling=scaling
        )
        return torch.cat([prompt, response.flatten(2, 3)], 2)

    def _responses(self, states: Tensor) -> Tensor:
        responses = states[:, :, self.prompt_width :]
        return responses.reshape(*responses.shape[:2], self.group, -1, responses.shape[-1])


@dataclass
class Prefill:
    """Prompts alone; ``keys`` and ``values`` hold [B, J, P, D] of every layer afterwards."""

    length: Tensor  # [B]
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        assert layer == len(self.keys), "a layer attended twice"
        self.keys.append(key)
        self.values.append(value)
        return _causal(query, key, value, scaling)


@dataclass
class Extend:
    """One new token for each of W beams a prompt.

    ``own_keys`` and ``own_values`` hold [B, J, W, K, D] of every layer: the beams' own paths, re-indexed by ``follow``
    when beams change parents. The prompt's keys are never copied.
    """

    prompt: Prefill
    own_keys: list[Tensor] = field(default_factory=list)
    own_values: list[Tensor] = field(default_factory=list)

    def follow(self, parent: Tensor) -> None:
        """[B, W]: beam ``w`` goes on from the path of beam ``parent[:, w]``."""
        self.own_keys = [_take(states, parent) for states in self.own_keys]
        self.own_values = [_take(states, parent) for states in self.own_values]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        key, value = key.unsqueeze(3), value.unsqueeze(3)  # [B, J, W, 1, D]
        if layer < len(self.own_keys):
            key = self.own_keys[layer] = torch.cat([self.own_keys[layer], key], 3)
            value = self.own_values[layer] = torch.cat([self.own_values[layer], value], 3)
        else:
            self.own_keys.append(key)
            self.own_values.append(value)
        out = prefix_attention(
            query.unsqueeze(3),
            self.prompt.keys[layer],
            self.prompt.values[layer],
            self.prompt.length,
            key,
            value,
            scaling=scaling,
        )
        return out.squeeze(3)


def _take(states: Tensor, parent: Tensor) -> Tensor:
    """[B, J, W, K, D] gathered along W by [B, W']."""
    index = parent[:, None, :, None, None].expand(-1, states.shape[1], -1, states.shape[3], states.shape[4])
    return states.gather(2, index)


def _causal(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    with torch.autocast(query.device.type, enabled=False):
        if query.device.type == "cpu":  # the bf16 backward of CPU's SDPA is several times slower than float32's
            query, key, value = query.float(), key.float(), value.float()
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    scaling: float | None = None,
    *,
    layout: Layout,
    **_: Any,
) -> tuple[Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: Any = module.layer_idx
    with torch.autocast(query.device.type, enabled=False):
        out = layout.attend(int(layer), query, key, value, scale)
    return out.transpose(1, 2).contiguous().to(value.dtype), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Layouts mask for themselves; without this transformers would build a dense [S, S] mask."""


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)
