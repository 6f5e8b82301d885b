"""A Hugging Face decoder as a policy, on any device that torch knows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from recrl.backends.decoder_policy import MEMORY, DecoderPolicy, Space, chosen_logits
from recrl.device.runtime import autocast
from recrl.kernels.ops import Ops
from recrl.kernels.places import take
from recrl.kernels.registry import pick
from recrl.memory.head import MemoryHead
from recrl.models.checkpoint import load_folder, save_folder, use_layouts
from recrl.models.dropout import add_dropout
from recrl.models.fused import OPS as FUSED_OPS
from recrl.models.fused import fuse
from recrl.models.shared_prefix import Layout
from recrl.models.tensors import ReadTensor
from recrl.sids.trie import Trie


class TransformersPolicy(DecoderPolicy):
    """See ``recrl.backends.policy.Policy``."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        trie: Trie,
        device: torch.device,
        *,
        dtype: str = "float32",
        token_budget: int = 32768,
        space: Space = "raw",
        kernels: Mapping[str, str] | None = None,
        memory: MemoryHead | None = None,
    ) -> None:
        wanted = kernels or {}
        use_layouts(model)
        fuse(model, {op: pick(op, device.type, wanted.get(op, "auto")) for op in FUSED_OPS})
        self.model = model.to(device)
        self.config = model.config
        super().__init__(
            tokenizer,
            trie,
            device,
            len(self.head),
            dtype=dtype,
            token_budget=token_budget,
            space=space,
            kernels=kernels,
            memory=memory,
        )
        self.output = WholeHead(lambda: self.head, self.ops, self.columns, self.column_of)

    @classmethod
    def load(cls, folder: Path, trie: Trie, device: torch.device, **options: Any) -> Self:
        model, tokenizer = load_folder(folder)
        return cls(model, tokenizer, trie, device, **options)

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        trie: Trie,
        device: torch.device,
        **options: Any,
    ) -> Self:
        return cls(model, tokenizer, trie, device, **options)

    @property
    def head(self) -> Tensor:
        """[V, H] output matrix."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def hidden(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        decoder: Any = self.model.base_model
        # A layout masks for itself. Without a finished mask transformers would read the positions to see what to make.
        unused = ids.new_empty(1, 1, 0, 0)
        with autocast(self.device, self.dtype):
            out = decoder(
                ids.unsqueeze(0),
                attention_mask=unused,
                position_ids=positions.unsqueeze(0),
                use_cache=False,
                layout=layout,
            )
        states: Tensor = out.last_hidden_state[0]
        read = layout.read
        # A last layer that knows how has left the others out. ``read`` ascends: all T of them are all states in order.
        return states if read is None or len(states) == len(read) else take(states, read)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.model.named_parameters()
        if self.memory is not None:
            learned = self.memory.named_parameters(prefix=MEMORY)
            yield from ((name, weight) for name, weight in learned if weight.requires_grad)

    def finish_gradients(self) -> None:
        """Nothing is partial on an engine of one rank."""

    def gradient_norm(self) -> Tensor:
        return nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])

    def whole(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield from tensors.items()

    def parts(self, read: ReadTensor) -> Iterator[tuple[str, Tensor]]:
        for name, _ in self.named_parameters():
            yield name, read(name)[:]

    def frozen_copy(self) -> Self:
        return type(self)(
            copy.deepcopy(self.model).requires_grad_(False),
            self.tokenizer,
            self.trie,
            self.device,
            **self.options,
        )

    def checkpoint_gradients(self) -> None:
        self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def add_dropout(self, probability: float) -> None:
        add_dropout(self.model, probability)

    def save_pretrained(self, folder: Path) -> None:
        save_folder(self.model, self.tokenizer, folder)


class WholeHead:
    """See ``recrl.backends.decoder_policy.OutputHead``.

    Args:
        weight: gives the [V, H] output matrix that the model has now.
        columns: [L] tokens that can be legal at all.
        column_of: [V] place of every one of them among these.
    """

    def __init__(self, weight: Callable[[], Tensor], ops: Ops, columns: Tensor, column_of: Tensor) -> None:
        self._weight = weight
        self._ops = ops
        self._columns = columns
        self._column_of = column_of

    def logp(self, hidden: Tensor, token: Tensor, source: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._ops.linear_logp(hidden, self._weight(), token, source)

    def legal_logp(
        self, hidden: Tensor, token: Tensor, legal: Tensor, exists: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        weight = self._weight().index_select(0, self._columns)
        return self._ops.legal_logp(hidden, weight, self._column_of[token], self._column_of[legal], exists, bias)

    def scores(self, hidden: Tensor, candidates: Tensor, space: Space) -> tuple[Tensor, Tensor | None]:
        if space == "legal":
            return chosen_logits(hidden, self._weight()[self._columns], self._column_of[candidates], None)
        return chosen_logits(hidden, self._weight(), candidates, self._ops.log_normaliser)

    def logits(self, hidden: Tensor, candidates: Tensor) -> Tensor:
        return torch.einsum("bwh,bwch->bwc", hidden, self._weight()[candidates]).float()
