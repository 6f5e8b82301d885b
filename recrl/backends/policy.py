"""What rollout, training and evaluation ask of a model, on whatever engine it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from recrl.groups import PackedGroups, PromptBatch

BeamState = Any
"""The prompts' keys and the beams' own paths; every engine has its own, opaque to its users."""


class Policy(Protocol):
    """A model that reads prompts and gives log-probabilities of tokens.

    Letters as in ``recrl.groups``; W beams or samples a prompt, C candidate tokens.
    """

    device: torch.device
    token_budget: int

    def logp(self, batch: PackedGroups) -> tuple[Tensor, Tensor]:
        """[N, R] natural log-probabilities of the response tokens, and their entropies; carries the gradient."""
        ...

    def prefill(self, prompts: PromptBatch) -> tuple[BeamState, Tensor]:
        """Read prompts once; a state, and [B, 1, H] hidden states that predict the first token."""
        ...

    def extend(self, state: BeamState, parent: Tensor, token: Tensor, step: int) -> Tensor:
        """Beam ``w`` takes the path of beam ``parent[:, w]`` and ``token[:, w]``; [B, W, H] hidden states."""
        ...

    def candidate_logp(self, hidden: Tensor, candidates: Tensor, exists: Tensor) -> Tensor:
        """[B, W, H], [B, W, C] token ids and which of them exist -> [B, W, C] log-probabilities, -inf elsewhere."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the optimiser updates."""
        ...

    def save_pretrained(self, folder: Path) -> None:
        """Write a Hugging Face folder."""
        ...
