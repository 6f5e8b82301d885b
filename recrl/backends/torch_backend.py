"""A Hugging Face decoder as a policy, on any device that torch knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from recrl.backends.device import autocast
from recrl.groups import PackedGroups, PromptBatch
from recrl.kernels.linear_logp.reference import legal_logp, linear_logp
from recrl.models.checkpoint import save_folder, use_layouts
from recrl.models.shared_prefix import Causal, Extend, Layout, Prefill, SharedPrefix
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
    ) -> None:
        use_layouts(model)
        self.model = model.to(device)
        self.tokenizer = tokenizer
        self.trie = trie.to(device)
        self.device = device
        self.dtype = dtype
        self.token_budget = token_budget
        self.space = space

    @property
    def head(self) -> Tensor:
        """[V, H] output matrix."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def hidden(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """[B, S] token ids and positions -> [B, S, H]."""
        decoder: Any = self.model.base_model
        with autocast(self.device, self.dtype):
            out = decoder(ids, position_ids=positions, use_cache=False, layout=layout)
        states: Tensor = out.last_hidden_state
        return states

    def causal_hidden(self, ids: Tensor) -> Tensor:
        """[B, S] right-padded rows -> [B, S, H]."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return self.hidden(ids, positions, Causal())

    def token_logp(self, hidden: Tensor, token: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        """[T, H], [T] tokens and [T] trie nodes that they were chosen at -> [T] log-probabilities and entropies.

        Text is chosen at no node (-1): it has no legal continuations and is normalised over the whole vocabulary.
        """
        with autocast(self.device, self.dtype):
            if self.space == "raw":
                return linear_logp(hidden, self.head, token)
            edge, exists = self.trie.edges(node.clamp(min=0), max(self.trie.fanout))
            text = (node < 0).nonzero().squeeze(1)
            exists[text] = False
            exists[text, 0] = True  # keeps the normaliser of these rows finite
            logp, entropy = legal_logp(hidden, self.head, token, self.trie.token[edge], exists)
            if len(text):
                value, spread = linear_logp(hidden[text], self.head, token[text])
                logp, entropy = logp.index_copy(0, text, value), entropy.index_copy(0, text, spread)
            return logp, entropy

    def logp(self, batch: PackedGroups) -> tuple[Tensor, Tensor]:
        prompts, rows, width = batch.prompts, batch.tokens.shape[1], batch.width
        count, longest = prompts.ids.shape
        responses = batch.tokens.new_zeros(count, width, rows)
        responses[batch.prompt_of, batch.slot] = batch.tokens
        places = prompts.length[:, None, None] + torch.arange(rows, device=self.device)
        positions = torch.cat(
            [
                torch.arange(longest, device=self.device).expand(count, -1),
                places.expand(-1, width, -1).reshape(count, -1),
            ],
            1,
        )
        ids = torch.cat([prompts.ids, responses.view(count, -1)], 1)
        states = self.hidden(ids, positions, SharedPrefix(longest, prompts.length, width))
        # What predicts a response token: the prompt's last state for the first, the token before for the others.
        first = states[torch.arange(count, device=self.device), prompts.length - 1][batch.prompt_of]
        own = states[:, longest:].reshape(count, width, rows, -1)[batch.prompt_of, batch.slot]
        before = torch.cat([first.unsqueeze(1), own[:, :-1]], 1)
        logp = before.new_zeros(batch.mask.shape, dtype=torch.float32)
        entropy = torch.zeros_like(logp)
        chosen = batch.mask
        value, spread = self.token_logp(before[chosen], batch.tokens[chosen], batch.nodes[chosen])
        return logp.masked_scatter(chosen, value), entropy.masked_scatter(chosen, spread)

    def prefill(self, prompts: PromptBatch) -> tuple[Extend, Tensor]:
        layout = Prefill(prompts.length)
        count, longest = prompts.ids.shape
        positions = torch.arange(longest, device=self.device).expand(count, -1)
        states = self.hidden(prompts.ids, positions, layout)
        last = states[torch.arange(count, device=self.device), prompts.length - 1]
        return Extend(layout), last.unsqueeze(1)

    def extend(self, state: Extend, parent: Tensor, token: Tensor, step: int) -> Tensor:
        state.follow(parent)
        positions = (state.prompt.length + step).unsqueeze(1).expand_as(token)
        return self.hidden(token, positions, state)

    def candidate_logp(self, hidden: Tensor, candidates: Tensor, exists: Tensor) -> Tensor:
        flat, legal, real = hidden.flatten(0, 1), candidates.flatten(0, 1), exists.flatten(0, 1)
        rows = max(1, LOGITS_AT_ONCE // self.head.shape[0])
        parts = [
            self._candidate_logp(flat[begin : begin + rows], legal[begin : begin + rows], real[begin : begin + rows])
            for begin in range(0, len(flat), rows)
        ]
        return torch.cat(parts).view_as(candidates)

    def _candidate_logp(self, hidden: Tensor, legal: Tensor, exists: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            logits = (hidden @ self.head.t()).float()
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
