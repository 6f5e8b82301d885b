"""A Hugging Face decoder as a policy, on any device that torch knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from recrl.backends.device import autocast
from recrl.groups import PackedGroups, PromptBatch
from recrl.kernels.ops import Ops
from recrl.kernels.registry import pick
from recrl.kernels.shared_prefix_attention.rows import PrefixRows
from recrl.models.checkpoint import save_folder, use_layouts
from recrl.models.fused import OPS as FUSED_OPS
from recrl.models.fused import fuse
from recrl.models.shared_prefix import Extend, Layout, Packed, Prefill
from recrl.sids.trie import Trie

LOGITS_AT_ONCE = 1 << 26
"""Logits held at once where none is kept for a backward pass (256 MiB in float32)."""


class TransformersPolicy:
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
        space: Literal["raw", "legal"] = "raw",
        kernels: Mapping[str, str] | None = None,
    ) -> None:
        wanted = kernels or {}
        self.ops = Ops.pick(device.type, wanted)
        use_layouts(model)
        fuse(model, {op: pick(op, device.type, wanted.get(op, "auto")) for op in FUSED_OPS})
        self.model = model.to(device)
        self.tokenizer = tokenizer
        self.trie = trie.to(device)
        self.device = device
        self.dtype = dtype
        self.token_budget = token_budget
        self.space = space
        self.columns = self.trie.token.unique()  # the only tokens that can be legal at all
        self.column_of = torch.zeros(len(self.head), dtype=torch.long, device=device)
        self.column_of[self.columns] = torch.arange(len(self.columns), device=device)

    @property
    def head(self) -> Tensor:
        """[V, H] output matrix."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def hidden(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """[T] token ids and positions of one flat row -> [T, H]."""
        decoder: Any = self.model.base_model
        with autocast(self.device, self.dtype):
            out = decoder(ids.unsqueeze(0), position_ids=positions.unsqueeze(0), use_cache=False, layout=layout)
        states: Tensor = out.last_hidden_state[0]
        return states

    def causal_hidden(self, ids: Tensor, length: Tensor) -> Tensor:
        """[T] tokens of rows that stand one behind the other, and [B] their lengths -> [T, H]."""
        rows = PrefixRows.alone(length)
        return self.hidden(ids, rows.positions, Packed(rows, self.ops))

    def token_logp(self, hidden: Tensor, token: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        """[T, H], [T] tokens and [T] trie nodes that they were chosen at -> [T] log-probabilities and entropies.

        Text is chosen at no node (-1): it has no legal continuations and is normalised over the whole vocabulary.
        """
        with autocast(self.device, self.dtype):
            if self.space == "raw":
                return self.ops.linear_logp(hidden, self.head, token)
            logp, entropy = hidden.new_zeros(2, len(token), dtype=torch.float32)
            for rows, part in (((node >= 0).nonzero(), self._legal_logp), ((node < 0).nonzero(), self._text_logp)):
                if len(rows):
                    index = rows.squeeze(1)
                    value, spread = part(hidden[index], token[index], node[index])
                    logp, entropy = logp.index_copy(0, index, value), entropy.index_copy(0, index, spread)
            return logp, entropy

    def _legal_logp(self, hidden: Tensor, token: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        edge, exists = self.trie.edges(node, max(self.trie.fanout))
        legal = self.column_of[self.trie.token[edge]]
        weight = self.head.index_select(0, self.columns)
        return self.ops.legal_logp(hidden, weight, self.column_of[token], legal, exists)

    def _text_logp(self, hidden: Tensor, token: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return self.ops.linear_logp(hidden, self.head, token)

    def logp(self, batch: PackedGroups) -> tuple[Tensor, Tensor]:
        prompts, fed = batch.prompts, batch.fed
        rows = PrefixRows(prompts.length, fed.sum(1), batch.prompt_of)
        places = rows.prompts
        ids = torch.cat([prompts.ids.flatten()[places.index], batch.tokens[:, :-1][fed]])
        states = self.hidden(ids, rows.positions, Packed(rows, self.ops))
        # What predicts a response token: the prompt's last state for the first, the token before for the others.
        source = torch.empty_like(batch.tokens)
        source[:, 0] = prompts.length.cumsum(0)[batch.prompt_of] - 1
        source[:, 1:][fed] = torch.arange(places.count, len(ids), device=self.device)
        logp = states.new_zeros(batch.mask.shape, dtype=torch.float32)
        entropy = torch.zeros_like(logp)
        chosen = batch.mask
        value, spread = self.token_logp(
            states.index_select(0, source[chosen]), batch.tokens[chosen], batch.nodes[chosen]
        )
        return logp.masked_scatter(chosen, value), entropy.masked_scatter(chosen, spread)

    def prefill(self, prompts: PromptBatch) -> tuple[Extend, Tensor]:
        layout = Prefill(PrefixRows.alone(prompts.length), self.ops)
        states = self.hidden(prompts.ids.flatten()[layout.rows.prompts.index], layout.rows.positions, layout)
        last = states[prompts.length.cumsum(0) - 1]
        return Extend(layout), last.unsqueeze(1)

    def extend(self, state: Extend, parent: Tensor, token: Tensor, step: int) -> Tensor:
        state.follow(parent)
        positions = (state.prompt.rows.prompt_length + step).unsqueeze(1).expand_as(token)
        return self.hidden(token.flatten(), positions.flatten(), state).view(*token.shape, -1)

    def candidate_logp(self, hidden: Tensor, candidates: Tensor, exists: Tensor) -> Tensor:
        flat, legal, real = hidden.flatten(0, 1), candidates.flatten(0, 1), exists.flatten(0, 1)
        if self.space == "legal":
            weight, legal = self.head[self.columns], self.column_of[legal]
        else:
            weight = self.head
        rows = max(1, LOGITS_AT_ONCE // len(weight))
        parts = [
            self._candidate_logp(weight, *chunk)
            for chunk in zip(flat.split(rows), legal.split(rows), real.split(rows), strict=True)
        ]
        return torch.cat(parts).view_as(candidates)

    def _candidate_logp(self, weight: Tensor, hidden: Tensor, legal: Tensor, exists: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            logits = (hidden @ weight.t()).float()
        chosen = logits.gather(-1, legal).masked_fill(~exists, float("-inf"))
        total = logits.logsumexp(-1, keepdim=True) if self.space == "raw" else chosen.logsumexp(-1, keepdim=True)
        # A leaf has no continuation: its total is -inf too, and -inf - -inf would be NaN.
        return torch.where(exists, chosen - total, float("-inf"))

    def candidate_logits(self, hidden: Tensor, candidates: Tensor) -> Tensor:
        """[B, W, H] and [B, W, C] token ids -> [B, W, C] logits, normalised over nothing."""
        with autocast(self.device, self.dtype):
            return torch.einsum("bwh,bwch->bwc", hidden, self.head[candidates]).float()

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self.model.parameters()

    def save_pretrained(self, folder: Path) -> None:
        save_folder(self.model, self.tokenizer, folder)
