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
from recrl.kernels.places import marked, runs, take
from recrl.kernels.registry import pick
from recrl.kernels.shared_prefix_attention.rows import PrefixRows
from recrl.models.checkpoint import save_folder, use_layouts
from recrl.models.fused import OPS as FUSED_OPS
from recrl.models.fused import fuse
from recrl.models.shared_prefix import Extend, Layout, Packed, Prefill
from recrl.sids.trie import Trie

LOGITS_AT_ONCE = 1 << 19
"""Logits held at once where none is kept for a backward pass: 2 MiB in float32, which stay in a CPU's cache."""
ROWS_AT_ONCE = 256
"""Rows that are worth a matrix product; with these a large vocabulary holds more logits."""


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
        """[T] token ids and positions of one flat row -> [T, H], or [R, H] of the tokens that the layout reads."""
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

    def causal_hidden(self, ids: Tensor, length: Tensor) -> Tensor:
        """[T] tokens of rows that stand one behind the other, and [B] their lengths -> [T, H]."""
        rows = PrefixRows.alone(length)
        return self.hidden(ids, rows.positions, Packed(rows, self.ops, reads_all=True))

    def token_logp(
        self, hidden: Tensor, token: Tensor, node: Tensor, source: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """[T] tokens and [T] trie nodes that they were chosen at -> [T] log-probabilities and entropies.

        Text is chosen at no node (-1): it has no legal continuations and is normalised over the whole vocabulary.

        Args:
            hidden: [S, H] states.
            source: [T] state that predicts each token; None where each state predicts one.
        """
        with autocast(self.device, self.dtype):
            if self.space == "raw":
                return self.ops.linear_logp(hidden, self.head, token, source)
            if source is not None:
                hidden = hidden.index_select(0, source)
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
        prompts, sizes = batch.prompts, batch.sizes
        length = batch.fed.sum(1)
        rows = PrefixRows(prompts.length, length, batch.prompt_of, sizes.rows)
        count, width = batch.tokens.shape
        fed = runs(torch.arange(0, count * width, width, device=self.device), length, sum(sizes.rows.row))
        ids = torch.cat([prompts.ids.flatten()[rows.prompts.index], batch.tokens.flatten()[fed]])
        states = self.hidden(ids, rows.positions, Packed(rows, self.ops))
        # What predicts a response token: the prompt's last state for the first, the token before for the others.
        before = (length.cumsum(0) - length + len(prompts)).unsqueeze(1)
        later = before + torch.arange(width - 1, device=self.device)
        source = torch.cat([batch.prompt_of.unsqueeze(1), later], 1).flatten()
        chosen = marked(batch.mask.flatten(), sum(sizes.chosen))
        value, spread = self.token_logp(
            states, batch.tokens.flatten()[chosen], batch.nodes.flatten()[chosen], source[chosen]
        )
        nothing = value.new_zeros(batch.mask.numel())
        logp, entropy = (nothing.index_copy(0, chosen, found).view_as(batch.mask) for found in (value, spread))
        return logp, entropy

    def prefill(self, prompts: PromptBatch) -> tuple[Extend, Tensor]:
        layout = Prefill(PrefixRows.alone(prompts.length), self.ops)
        states = self.hidden(prompts.ids.flatten()[layout.rows.prompts.index], layout.rows.positions, layout)
        return Extend(layout), states.unsqueeze(1)

    def extend(self, state: Extend, parent: Tensor, token: Tensor, step: int) -> Tensor:
        state.follow(parent)
        positions = (state.prompt.rows.prompt_length + step).unsqueeze(1).expand_as(token)
        return self.hidden(token.flatten(), positions.flatten(), state).view(*token.shape, -1)

    @torch.no_grad()
    def candidate_logp(self, hidden: Tensor, candidates: Tensor, exists: Tensor) -> Tensor:
        flat, legal, real = hidden.flatten(0, 1), candidates.flatten(0, 1), exists.flatten(0, 1)
        if self.space == "legal":
            weight, legal = self.head[self.columns], self.column_of[legal]
        else:
            weight = self.head
        rows = max(ROWS_AT_ONCE, LOGITS_AT_ONCE // len(weight))
        parts = [
            self._candidate_logp(weight, *chunk)
            for chunk in zip(flat.split(rows), legal.split(rows), real.split(rows), strict=True)
        ]
        return torch.cat(parts).view_as(candidates)

    def _candidate_logp(self, weight: Tensor, hidden: Tensor, legal: Tensor, exists: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            logits = hidden @ weight.t()
        chosen = logits.gather(-1, legal).float().masked_fill_(~exists, float("-inf"))
        if self.space == "raw":
            return chosen.sub_(self.ops.log_normaliser(logits).unsqueeze(-1))
        # A leaf has no continuation: its total is -inf too, and -inf - -inf would be NaN.
        return chosen.sub_(chosen.logsumexp(-1, keepdim=True)).masked_fill_(~exists, float("-inf"))

    def candidate_logits(self, hidden: Tensor, candidates: Tensor) -> Tensor:
        """[B, W, H] and [B, W, C] token ids -> [B, W, C] logits, normalised over nothing."""
        with autocast(self.device, self.dtype):
            return torch.einsum("bwh,bwch->bwc", hidden, self.head[candidates]).float()

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self.model.parameters()

    def save_pretrained(self, folder: Path) -> None:
        save_folder(self.model, self.tokenizer, folder)
