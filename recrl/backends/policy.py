"""What rollout, training and evaluation ask of a model, on whatever engine it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from recrl.groups.packed import PackedGroups
from recrl.groups.prompts import PromptBatch
from recrl.memory.prior import NodePrior
from recrl.models.shared_prefix import ReadPrompts
from recrl.models.tensors import ReadTensor

BeamState = Any
"""The prompts' keys and the beams' own paths; every engine has its own, opaque to its users."""


class Decoding(Protocol):
    """What a rollout asks of a model.

    Letters as in ``recrl.groups``; W beams or samples a prompt, C candidate tokens.
    """

    device: torch.device

    def prefill(self, prompts: PromptBatch) -> tuple[BeamState, Tensor]:
        """Read prompts once; a state, and [B, 1, H] hidden states that predict the first token."""
        ...

    def extend(self, state: BeamState, parent: Tensor, token: Tensor, step: int) -> Tensor:
        """Beam ``w`` takes the path of beam ``parent[:, w]`` and ``token[:, w]``; [B, W, H] hidden states."""
        ...

    def prior(self, prompts: PromptBatch) -> NodePrior | None:
        """What the memory adds to the steps of these prompts' responses; None where there is no memory."""
        ...

    def candidate_logp(self, hidden: Tensor, candidates: Tensor, exists: Tensor, bias: Tensor | None = None) -> Tensor:
        """[B, W, H], [B, W, C] token ids and which of them exist -> [B, W, C] log-probabilities, -inf elsewhere.

        Args:
            bias: [B, W, C] added to the logits; the log-probabilities are then those of the legal continuations.
        """
        ...


class Policy(Decoding, Protocol):
    """A model that reads prompts and gives log-probabilities of tokens."""

    token_budget: int

    def logp(self, batch: PackedGroups, read: ReadPrompts | None = None) -> tuple[Tensor, Tensor]:
        """[N, R] natural log-probabilities of the response tokens, and their entropies; carries the gradient.

        Args:
            read: the batch's prompts, where a prefill with these very weights has read them and kept its gradient: they
                are not computed again.
        """
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the optimiser updates."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The same with the engine's own names: this rank's part of every one, tied ones once."""
        ...

    def finish_gradients(self) -> None:
        """After the last backward pass of a step: add up what the ranks of a model each have a part of."""
        ...

    def gradient_norm(self) -> Tensor:
        """The L2 norm of the whole model's gradient, a scalar that is the same on all ranks of a model."""
        ...

    def whole(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Whole tensors under Hugging Face names, one at a time; all ranks of a model have to ask together.

        Args:
            tensors: shaped and named as ``named_parameters``: weights, or an optimiser's state of them.
        """
        ...

    def parts(self, read: ReadTensor) -> Iterator[tuple[str, Tensor]]:
        """The inverse of ``whole``: this rank's part of every tensor under its own name, on the CPU or where it was."""
        ...

    def fill(self, values: Iterable[tuple[str, Tensor]]) -> None:
        """Overwrite all parameters by their own names, with what ``parts`` gives."""
        ...

    def frozen_copy(self) -> Self:
        """A policy with weights of its own that do not train: the reference of a KL term."""
        ...

    def checkpoint_gradients(self) -> None:
        """From now on compute a layer's activations again in the backward pass, and keep its input alone."""
        ...

    def add_dropout(self, probability: float) -> None:
        """Drop activations in training mode, as ``recrl.models.dropout`` does; 0 changes nothing.

        Raises:
            UserError: the engine does not drop any.
        """
        ...

    def save_pretrained(self, folder: Path) -> None:
        """Write a Hugging Face folder; all ranks of a model have to ask together."""
        ...
