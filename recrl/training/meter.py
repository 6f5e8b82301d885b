"""Time, tokens, FLOPs and memory of a step, under verl's metric names."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from recrl.backends.device import measured_peak_flops, peak_memory_gb, synchronize
from recrl.groups import PackedGroups
from recrl.models.fused import weights_left_out


class Meter:
    """Collects one step's figures; ``take`` gives them and starts anew."""

    def __init__(self, model: PreTrainedModel, device: torch.device, dtype: str) -> None:
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        total = sum(parameter.numel() for parameter in model.parameters())
        self._head = head.numel()
        # A lookup is no product; the head is one, at the positions that are scored.
        self._body = total - embedding.numel() - (0 if head is embedding else head.numel())
        shape = model.config
        size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        self._heads = shape.num_attention_heads * size
        self._attention = shape.num_hidden_layers * self._heads
        self._left_out = weights_left_out(model)
        self._device = device
        self._peak = measured_peak_flops(device, dtype)
        self._seconds: dict[str, float] = defaultdict(float)
        self._flops = 0.0
        self._tokens = 0

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Add the block's seconds to ``timing_s/<phase>``."""
        synchronize(self._device)
        begin = time.perf_counter()
        yield
        synchronize(self._device)
        self._seconds[phase] += time.perf_counter() - begin

    def count(
        self, tokens: int, pairs: int, scored: int, *, passes: int = 3, unread: int = 0, unread_pairs: int = 0
    ) -> None:
        """Count what the actor computed.

        A forward pass is 2 FLOPs a weight and token, the head's at scored positions alone, and 4 a pair of positions
        and attention channel (scores, and their weighted sum); forward and backward are 3 passes.

        Args:
            tokens: real ones, not padding.
            pairs: query and key positions that meet, over all rows.
            scored: states that the head was computed for.
            unread: tokens whose last state is not read: a last layer that knows how computes their keys and values
                alone (``recrl.models.fused``).
            unread_pairs: of these as queries.
        """
        self._tokens += tokens
        self._flops += passes * (2 * tokens * self._body + 2 * scored * self._head + 4 * pairs * self._attention)
        if self._left_out:
            self._flops -= passes * (2 * unread * self._left_out + 4 * unread_pairs * self._heads)

    def take(self, phase: str) -> dict[str, float]:
        """The figures since the last call; MFU is of the seconds in ``phase``, over the measured peak."""
        seconds = self._seconds[phase]
        values = {f"timing_s/{name}": round(value, 6) for name, value in self._seconds.items()}
        values["tokens/actor_effective"] = float(self._tokens)
        values["perf/max_memory_allocated_gb"] = round(peak_memory_gb(self._device), 4)
        if seconds > 0:
            values["perf/mfu/actor"] = self._flops / seconds / self._peak
            values["perf/throughput"] = self._tokens / seconds
        self._seconds.clear()
        self._flops, self._tokens = 0.0, 0
        return values


def count_update(meter: Meter, batch: PackedGroups) -> None:
    """Count an update on active rows."""
    unread = batch.effective_tokens - batch.states
    meter.count(batch.effective_tokens, batch.pairs, batch.states, unread=unread, unread_pairs=batch.unread_pairs)
