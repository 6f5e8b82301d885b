"""Time, tokens, FLOPs and memory of a step, under verl's metric names."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from recrl.backends.decoder_policy import DecoderPolicy
from recrl.config import RunConfig
from recrl.device.matmul_speed import peak_flops
from recrl.device.runtime import peak_memory_gb, synchronize
from recrl.groups.packed import PackedGroups
from recrl.hardware.flops import TRAINING_PASSES, Products, Work, forward_flops
from recrl.hardware.model_shapes import shape_of
from recrl.models.fused import weights_left_out

logger = logging.getLogger(__name__)


def products_of(policy: DecoderPolicy) -> Products:
    """What a forward pass of a policy's whole model multiplies by."""
    if isinstance(policy.model, PreTrainedModel):
        return products_of_model(policy.model)
    shape = shape_of(policy.config.to_dict(), "the model")  # this rank has a part of it
    # Megatron's layers compute queries, keys and values in one product: the last one leaves out what follows it.
    return replace(Products.of(shape), unread=shape.unread_weights - shape.hidden * shape.query_width)


def make_meter(policy: DecoderPolicy, config: RunConfig, devices: int) -> Meter:
    """A meter that counts as the config says."""
    products = products_of(policy)
    counted = {"computed": products, "verl": products.as_verl}
    return Meter(counted[config.backend.mfu], policy.device, policy.dtype, devices)


def products_of_model(model: PreTrainedModel) -> Products:
    """What a forward pass of a model in memory multiplies by."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    total = sum(parameter.numel() for parameter in model.parameters())
    shape = model.config
    size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    return Products(
        # A lookup is no product; the head is one, at the positions that are scored.
        body=total - embedding.numel() - (0 if head is embedding else head.numel()),
        head=head.numel(),
        channels=shape.num_attention_heads * size,
        layers=shape.num_hidden_layers,
        unread=weights_left_out(model),
    )


class Meter:
    """Collects one step's figures; ``take`` gives them and starts anew.

    No device exceeds its peak: an MFU above 1 means that the peak was measured while the device was busy, or that what
    was counted is not what was computed. The peak is then measured again; if MFU is still above 1, it is left out.

    Args:
        dtype: as ``DecoderPolicy.dtype``.
        devices: that compute together; what is counted is the work of all of them.
    """

    def __init__(self, products: Products, device: torch.device, dtype: str, devices: int = 1) -> None:
        self._products = products
        self._device = device
        self._dtype = dtype
        self._devices = devices
        self._peak = self._measured_peak()
        self._refused = False
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

    def count(self, work: Work, *, passes: int = TRAINING_PASSES, spared: Work | None = None) -> None:
        """Count what the actor computed: ``work`` in every one of so many forward passes, but for what the first of
        them was spared.
        """
        self._tokens += work.tokens
        self._flops += passes * forward_flops(self._products, work)
        if spared:
            self._flops -= forward_flops(self._products, spared)

    def take(self, phase: str) -> dict[str, float]:
        """The figures since the last call; MFU is of the seconds in ``phase``, over the measured peak."""
        seconds = self._seconds[phase]
        values = {f"timing_s/{name}": round(value, 6) for name, value in self._seconds.items()}
        values["tokens/actor_effective"] = float(self._tokens)
        values["perf/max_memory_allocated_gb"] = round(peak_memory_gb(self._device), 4)
        if seconds > 0:
            values |= self._mfu(self._flops / seconds)
            values["perf/throughput"] = self._tokens / seconds
        self._seconds.clear()
        self._flops, self._tokens = 0.0, 0
        return values

    def _mfu(self, flops: float) -> dict[str, float]:
        """The metric for so many FLOP/s; {} where they can't be."""
        if flops > self._peak and not self._refused:
            self._peak = max(self._peak, self._measured_peak())
        if flops <= self._peak:
            return {"perf/mfu/actor": flops / self._peak}
        if not self._refused:
            logger.warning(
                "perf/mfu/actor is left out where it is above 1: %.3g FLOP/s were counted, and products reach %.3g",
                flops,
                self._peak,
            )
            self._refused = True
        return {}

    def _measured_peak(self) -> float:
        return peak_flops(self._device, self._dtype) * self._devices


def read_work(batch: PackedGroups) -> Work:
    """What of ``update_work`` a prefill computes, whose last states the head does not see."""
    return Work(
        tokens=batch.prompt_tokens,
        pairs=batch.prompt_pairs,
        scored=0,
        unread=batch.prompt_tokens - len(batch.prompts),
        unread_pairs=batch.unread_pairs,
    )


def update_work(batch: PackedGroups) -> Work:
    """What a forward pass over active rows computes."""
    unread = batch.effective_tokens - batch.states
    return Work(batch.effective_tokens, batch.pairs, batch.states, unread, batch.unread_pairs)
