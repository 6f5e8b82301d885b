"""A policy's weights as named tensors of the whole model, out and in, on any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recrl.backends.decoder_policy import DecoderPolicy
from recrl.backends.policy import ReadTensor
from recrl.backends.ranks import Ranks


def weights(policy: DecoderPolicy, prefix: str, ranks: Ranks) -> Iterator[tuple[str, Tensor]]:
    """The whole weights under Hugging Face names behind ``prefix``, tied ones once; all ranks ask together.

    Ranks of other copies than the first are given nothing.
    """
    if ranks.data_rank == 0:
        local = {name: weight.detach() for name, weight in policy.named_parameters()}
        for name, tensor in policy.whole(local):
            yield f"{prefix}.{name}", tensor


@torch.no_grad()
def load_weights(policy: DecoderPolicy, prefix: str, read: ReadTensor) -> None:
    """Put back what ``weights`` gave, on whatever number of ranks."""
    own = dict(policy.named_parameters())
    for name, value in policy.parts(lambda found: read(f"{prefix}.{found}")):
        own[name].copy_(value)
