"""Micro-batches of ranks that have to pass through the model together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from recrl.backends.decoder_policy import DecoderPolicy
from recrl.backends.ranks import Ranks

T = TypeVar("T")


def in_step(policy: DecoderPolicy, ranks: Ranks, own: list[T], spare: Callable[[], T]) -> list[tuple[T, float]]:
    """This rank's micro-batches, and what the loss of each is multiplied by.

    Where weights are shared out, every pass gathers them from all ranks: one that has fewer micro-batches than another
    goes through what ``spare`` gives for the rest, with loss weight 0.
    """
    parts = [(part, 1.0) for part in own]
    if policy.replicated:
        return parts
    missing = max(ranks.all_gather(len(own))) - len(own)
    return parts + [(spare(), 0.0) for _ in range(missing)]
