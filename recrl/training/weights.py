"""A policy's weights as named tensors of the whole model, out and in, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from recrl.backends.decoder_policy import DecoderPolicy
from recrl.backends.ranks import Ranks, local
from recrl.memory.store import save_head
from recrl.models.tensors import ReadTensor
from recrl.training.optimizer import takes_part


def weights(policy: DecoderPolicy, prefix: str, ranks: Ranks) -> Iterator[tuple[str, Tensor]]:
    """The whole weights under Hugging Face names behind ``prefix``, tied ones once; all ranks ask together.

    Ranks of other copies than the first are given nothing.
    """
    if takes_part(policy, ranks):
        own = {name: weight.detach() for name, weight in policy.named_parameters()}
        for name, tensor in policy.whole(own):
            yield f"{prefix}.{name}", tensor


def saving(policy: DecoderPolicy, ranks: Ranks) -> Callable[[Path], None]:
    """What all ranks have to call together to write a Hugging Face folder; the first one writes it."""
    if not takes_part(policy, ranks):
        return lambda folder: None  # noqa: ARG005

    def save(folder: Path) -> None:
        policy.save_pretrained(folder)
        if ranks.is_first and policy.memory is not None:
            save_head(policy.memory, folder)

    return save


@torch.no_grad()
def load_weights(policy: DecoderPolicy, prefix: str, read: ReadTensor) -> None:
    """Put back what ``weights`` gave, on whatever number of ranks."""
    own = dict(policy.named_parameters())
    for name, value in policy.parts(lambda found: read(f"{prefix}.{found}")):
        local(own[name]).copy_(value)
