"""Time, tokens, FLOPs and memory of a step, under verl's metric names."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from recrl.backends.device import measured_peak_flops, peak_memory_gb, synchronize


class Meter:
    """Collects one step's figures; ``take`` gives them and starts anew."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: str, layers: int, width: int) -> None:
        embedding = model.get_input_embeddings().weight  # type: ignore[operator]  # every decoder has both
        tied = model.get_output_embeddings().weight is embedding  # type: ignore[operator]
        total = sum(parameter.numel() for parameter in model.parameters())
        self._matrix = total if tied else total - embedding.numel()  # a lookup is no product, the head is one
        self._attention = layers * width
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

    def count(self, tokens: int, context: float, *, passes: int = 3) -> None:
        """Count ``tokens`` that the actor computed, each seeing ``context`` others on average.

        A forward pass is 2 FLOPs a weight and 4 x width a layer and position seen; forward and backward are 3 passes.
        """
        self._tokens += tokens
        self._flops += passes * tokens * (2 * self._matrix + 4 * self._attention * context)

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
