"""One forward over a prompt and all of its responses, for any Hugging Face decoder.

The model runs on one flat row of tokens, so that embeddings, norms, projections and MLPs compute real tokens and
nothing else; only attention asks which token belongs to which prompt. The attention below is registered with
transformers under the name ``recrl``; the model passes every keyword that it does not know on to it, so a *layout*
travels with the call and says who attends to whom. Four layouts cover everything:

- ``Causal``: ragged rows, one behind the other (SFT).
- ``SharedPrefix``: all prompts, then all responses (log-probs and updates).
- ``Prefill``: prompts alone; their keys and values stay for ``Extend`` (rollout).
- ``Extend``: one new token for every beam, over the prompt's keys and the beam's own path (rollout).

Letters: T tokens of the flat row, B rows or prompts, P tokens of the longest, W responses or beams a prompt, K own
tokens of a response, H query heads, J key heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from recrl.models.places import Places

ATTENTION = "recrl"
PrefixAttention = Callable[..., Tensor]
"""An implementation of ``kernels/prefix_attention``."""


class Layout(Protocol):
    """Who attends to whom in one forward pass."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[T, H, D] queries and [T, J, D] keys and values -> [T, H, D]."""
        ...


@dataclass(frozen=True)
class Causal:
    """Every token sees itself and what is before it in its row."""

    rows: Places

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:  # noqa: ARG002
        query, key, value = (self.rows.padded(states).transpose(1, 2) for states in (query, key, value))
        return self.rows.flat(_causal(query, key, value, scaling).transpose(1, 2))


@dataclass(frozen=True)
class SharedPrefix:
    """The tokens of all prompts, and then those of their responses that something is predicted from.

    Attributes:
        prompts: [B, P] places of the prompts' tokens.
        prompt_length: [B].
        responses: [B, W * K] places of the responses' tokens.
        group: W.
        op: the attention of responses.
    """

    prompts: Places
    prompt_length: Tensor
    responses: Places
    group: int
    op: PrefixAttention

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:  # noqa: ARG002
        begin = self.prompts.count
        prompt = [self.prompts.padded(states[:begin]).transpose(1, 2) for states in (query, key, value)]
        seen = self.prompts.flat(_causal(*prompt, scaling).transpose(1, 2))
        own = [self._grouped(states[begin:]) for states in (query, key, value)]
        response = self.op(own[0], prompt[1], prompt[2], self.prompt_length, own[1], own[2], scaling=scaling)
        return torch.cat([seen, self.responses.flat(response.permute(0, 2, 3, 1, 4).flatten(1, 2))])

    def _grouped(self, states: Tensor) -> Tensor:
        """[T, H, D] -> [B, H, W, K, D]."""
        padded = self.responses.padded(states)
        return padded.unflatten(1, (self.group, -1)).permute(0, 3, 1, 2, 4)


@dataclass
class Prefill:
    """Prompts alone; ``keys`` and ``values`` hold [B, J, P, D] of every layer afterwards."""

    prompts: Places
    length: Tensor  # [B]
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        assert layer == len(self.keys), "a layer attended twice"
        query, key, value = (self.prompts.padded(states).transpose(1, 2) for states in (query, key, value))
        self.keys.append(key)
        self.values.append(value)
        return self.prompts.flat(_causal(query, key, value, scaling).transpose(1, 2))


@dataclass
class Extend:
    """One new token for each of W beams a prompt, the tokens of a prompt's beams side by side.

    ``own_keys`` and ``own_values`` hold [B, J, W, K, D] of every layer: the beams' own paths, re-indexed by ``follow``
    when beams change parents. The prompt's keys are never copied.
    """

    prompt: Prefill
    op: PrefixAttention
    own_keys: list[Tensor] = field(default_factory=list)
    own_values: list[Tensor] = field(default_factory=list)

    def follow(self, parent: Tensor) -> None:
        """[B, W]: beam ``w`` goes on from the path of beam ``parent[:, w]``."""
        self.own_keys = [_take(states, parent) for states in self.own_keys]
        self.own_values = [_take(states, parent) for states in self.own_values]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        prompts = len(self.prompt.length)
        query, key, value = (
            states.unflatten(0, (prompts, -1)).transpose(1, 2).unsqueeze(3) for states in (query, key, value)
        )  # [B, H or J, W, 1, D]
        if layer < len(self.own_keys):
            key = self.own_keys[layer] = torch.cat([self.own_keys[layer], key], 3)
            value = self.own_values[layer] = torch.cat([self.own_values[layer], value], 3)
        else:
            self.own_keys.append(key)
            self.own_values.append(value)
        prompt = self.prompt
        out = self.op(query, prompt.keys[layer], prompt.values[layer], prompt.length, key, value, scaling=scaling)
        return out.squeeze(3).transpose(1, 2).flatten(0, 1)


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
    flat = [states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)]
    with torch.autocast(query.device.type, enabled=False):
        out = layout.attend(int(layer), *flat, scale)
    return out.unsqueeze(0).to(value.dtype), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Layouts mask for themselves; without this transformers would build a dense [S, S] mask."""


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)
