"""One forward over a prompt and all of its responses, for any Hugging Face decoder.

The model runs on one flat row of tokens, so that embeddings, norms, projections and MLPs compute real tokens and
nothing else; only attention asks which token belongs to which prompt. The attention below is registered with
transformers under the name ``recrl``; the model passes every keyword that it does not know on to it, so a *layout*
travels with the call and says who attends to whom:

- ``Packed``: prompts and, behind all of them, their responses (SFT rows, log-probs, updates).
- ``Prefill``: prompts alone; their keys and values stay for ``Extend`` (rollout).
- ``Extend``: one new token for every beam, over the prompt's keys and the beam's own path (rollout).
- ``Continue``: responses behind prompts that a prefill has read, whose keys and values carry their gradient (an update
  right behind its rollout).

A layout may say that not all states are read. The last layer then needs queries, and all that comes behind attention,
of the read tokens alone; layers that know how (``fused``) leave the others out.

Letters: T tokens of the flat row, R tokens whose last states are read, B prompts, P tokens of the longest, W beams a
prompt, K own tokens of a beam, H query heads, J key heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from recrl.kernels.ops import Ops
from recrl.kernels.places import runs, take
from recrl.kernels.shared_prefix_attention.rows import PrefixRows

ATTENTION = "recrl"


class Layout(Protocol):
    """Who attends to whom in one forward pass."""

    @property
    def read(self) -> Tensor | None:
        """[R] ascending: the tokens whose last states are read; None for all of them."""
        ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[T, H, D] queries (or [R, H, D] of what is read) and [T, J, D] keys and values -> as the queries."""
        ...


@dataclass(frozen=True)
class Packed:
    """Prompts and their responses.

    Attributes:
        reads_all: all states are read, not only those that ``rows.read`` names.
    """

    rows: PrefixRows
    ops: Ops
    reads_all: bool = False

    @property
    def read(self) -> Tensor | None:
        return None if self.reads_all else self.rows.read

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:  # noqa: ARG002
        return self.ops.shared_prefix_attention(query, key, value, self.rows, scaling=scaling)


@dataclass
class Prefill:
    """Prompts alone; ``keys`` and ``values`` hold [B, J, P, D] of every layer afterwards."""

    rows: PrefixRows
    ops: Ops
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    @property
    def read(self) -> Tensor:
        return self.rows.read

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        assert layer == len(self.keys), "a layer attended twice"
        self.keys.append(self.rows.prompts.padded(key).transpose(1, 2))
        self.values.append(self.rows.prompts.padded(value).transpose(1, 2))
        return self.ops.shared_prefix_attention(query, key, value, self.rows, scaling=scaling)


@dataclass(frozen=True)
class ReadPrompts:
    """Prompts that a prefill has read, with the gradient to what made their states.

    Attributes:
        last: [prefill's prompts, hidden size] their last states.
        chosen: [B] which of the prefill's prompts they are, ascending; None for all.
    """

    prefill: Prefill
    last: Tensor
    chosen: Tensor | None = None

    @property
    def states(self) -> Tensor:
        """[B, hidden size]."""
        return self.last if self.chosen is None else take(self.last, self.chosen)


@dataclass(frozen=True)
class Continue:
    """Responses alone, behind prompts that have been read."""

    prompts: ReadPrompts
    rows: PrefixRows
    ops: Ops

    @property
    def read(self) -> None:
        return None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        prefill = self.prompts.prefill
        key = torch.cat([self._flat(prefill.keys[layer]), key])
        value = torch.cat([self._flat(prefill.values[layer]), value])
        return self.ops.shared_prefix_attention(query, key, value, self.rows, scaling=scaling)

    def _flat(self, grid: Tensor) -> Tensor:
        """[B, J, P, D] of the prefill -> the prompts' tokens, [tokens, J, D]."""
        states = self.prompts.prefill.rows.prompts.flat(grid.transpose(1, 2))
        return states if self._tokens is None else take(states, self._tokens)

    @cached_property
    def _tokens(self) -> Tensor | None:
        """The chosen prompts' places in the prefill's flat row."""
        if self.prompts.chosen is None:
            return None
        length = self.prompts.prefill.rows.prompt_length
        start = (length.cumsum(0) - length)[self.prompts.chosen]
        return runs(start, self.rows.prompt_length, self.rows.prompts.count)


@dataclass
class Extend:
    """One new token for each of W beams a prompt, the tokens of a prompt's beams side by side.

    ``own_keys`` and ``own_values`` hold [B, J, W, K, D] of every layer: the beams' own paths, re-indexed by ``follow``
    when beams change parents. The prompt's keys are never copied.
    """

    prompt: Prefill
    own_keys: list[Tensor] = field(default_factory=list)
    own_values: list[Tensor] = field(default_factory=list)

    @property
    def read(self) -> None:
        return None

    def follow(self, parent: Tensor) -> None:
        """[B, W]: beam ``w`` goes on from the path of beam ``parent[:, w]``."""
        if self.own_keys:
            batch, _, width = self.own_keys[0].shape[:3]
            index = parent + torch.arange(0, batch * width, width, device=parent.device).unsqueeze(1)
            self.own_keys = [_take(states, index) for states in self.own_keys]
            self.own_values = [_take(states, index) for states in self.own_values]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        prompt, length = self.prompt, self.prompt.rows.prompt_length
        query, key, value = (
            states.unflatten(0, (len(length), -1)).transpose(1, 2).unsqueeze(3) for states in (query, key, value)
        )  # [B, H or J, W, 1, D]
        if layer < len(self.own_keys):
            key = self.own_keys[layer] = torch.cat([self.own_keys[layer], key], 3)
            value = self.own_values[layer] = torch.cat([self.own_values[layer], value], 3)
        else:
            self.own_keys.append(key)
            self.own_values.append(value)
        out = prompt.ops.prefix_attention(
            query, prompt.keys[layer], prompt.values[layer], length, key, value, scaling=scaling
        )
        return out.squeeze(3).transpose(1, 2).flatten(0, 1)


def _take(states: Tensor, index: Tensor) -> Tensor:
    """[B, J, W, K, D] and [B, W'] numbers of beams, counted over all prompts -> [B, J, W', K, D]."""
    beams = states.transpose(1, 2).flatten(0, 1)  # whole beams are copied: ``gather`` would look up every entry
    return beams.index_select(0, index.flatten()).view(*index.shape, *beams.shape[1:]).transpose(1, 2)


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
    query, key, value = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    with torch.autocast(query.device.type, enabled=False):
        out = layout.attend(int(layer), query, key, value, scale)
    return out.unsqueeze(0).to(value.dtype), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Layouts mask for themselves; without this transformers would build a dense [S, S] mask."""


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)
