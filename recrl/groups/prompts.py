"""Prompts of a step on the device.

Letters: B prompts, P tokens of a prompt, H items of its history, S targets, C candidates, L SID levels. Everything is
padded on the right; item indices and codes are padded with -1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recrl.memory.recalled import Recalled
from recrl.sids.trie import AllowedNodes, Trie


@dataclass(frozen=True)
class Targets:
    """What would be right.

    Attributes:
        items: [B, S] item indices.
        codes: [B, S, L] SID codes of these items.
    """

    items: Tensor
    codes: Tensor


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one step.

    Attributes:
        ids: [B, P] token ids.
        length: [B].
        targets: of every prompt.
        history: [B, H] the items that the user took, oldest first, as many as the prompt may show.
        start: [B] trie node that responses go on from: a root, or after the part of the target that is given.
        pool: [B, C] candidates that a prompt shows, and the only items that its responses may name; a row of -1 alone
            is the whole catalogue, and None is that for all prompts.
        recalled: what the memory knows of the prompts, None without one.
        sequence: [B] training sequence that a prompt was cut from, -1 where none was; None for others' histories.
    """

    ids: Tensor
    length: Tensor
    targets: Targets
    history: Tensor
    start: Tensor
    pool: Tensor | None = None
    recalled: Recalled | None = None
    sequence: Tensor | None = None

    def __len__(self) -> int:
        return len(self.length)

    @property
    def answerable(self) -> Tensor:
        """[B] bool: the first target is known, and a response may name it."""
        first = self.targets.items[:, :1]
        known = first[:, 0] >= 0
        return known if self.pool is None else known & ((self.pool == first).any(1) | (self.pool < 0).all(1))

    def eligible(self, items: int) -> Tensor | None:
        """[B, items] bool: a response may name the item; None where it may name any."""
        if self.pool is None:
            return None
        # The column after the last takes the padding.
        named = self.pool.new_zeros(len(self), items + 1, dtype=torch.bool)
        named.scatter_(1, torch.where(self.pool >= 0, self.pool, items), True)
        return named[:, :items] | (self.pool < 0).all(1, keepdim=True)

    def allowed(self, trie: Trie) -> AllowedNodes | None:
        """The nodes that lead to each prompt's candidates; None where every node counts."""
        return None if self.pool is None else trie.allowed(self.pool, trie.root[self.start])

    def select(self, rows: Tensor) -> PromptBatch:
        """Some prompts, cut to the longest of them."""
        return self.cut(rows, int(self.length[rows].max()) if len(rows) else 0)

    def cut(self, rows: Tensor | slice, width: int) -> PromptBatch:
        """Some prompts, none of them longer than ``width``."""
        return PromptBatch(
            self.ids[rows, :width],
            self.length[rows],
            Targets(self.targets.items[rows], self.targets.codes[rows]),
            self.history[rows],
            self.start[rows],
            None if self.pool is None else self.pool[rows],
            None if self.recalled is None else self.recalled.select(rows),
            None if self.sequence is None else self.sequence[rows],
        )
