"""What a memory recalled for prompts, as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Recalled:
    """Of B prompts; a prompt of which nothing is recalled is decoded by the model alone.

    Attributes:
        items: [B, M] item indices, best first, -1 after the last.
        share: [B, M] float32, the item's share of the prompt's whole score; 0 after the last.
        features: [B, M, F] float32, what the learned part sees.
    """

    items: Tensor
    share: Tensor
    features: Tensor

    def select(self, rows: Tensor | slice) -> Recalled:
        """Of some prompts."""
        return Recalled(self.items[rows], self.share[rows], self.features[rows])


def join_recalled(parts: list[Recalled]) -> Recalled | None:
    """One batch; every part recalls as many items a prompt. None of no parts."""
    if not parts:
        return None
    return Recalled(
        torch.cat([part.items for part in parts]),
        torch.cat([part.share for part in parts]),
        torch.cat([part.features for part in parts]),
    )
