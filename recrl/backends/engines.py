"""Which engine computes a model: a table, so that a new one is a file and a line."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import distributed

from recrl.backends.decoder_policy import DecoderPolicy
from recrl.device.runtime import distributed_backend, prepare_megatron
from recrl.errors import UserError


def _torch(device: torch.device, tensor_parallel: int) -> type[DecoderPolicy]:  # noqa: ARG001
    from recrl.backends.torch_backend import TransformersPolicy

    return TransformersPolicy


def _fsdp2(device: torch.device, tensor_parallel: int) -> type[DecoderPolicy]:  # noqa: ARG001
    if not distributed.is_initialized():
        raise UserError(
            "backend.engine = 'fsdp2'",
            why="one process was started, and it shares weights out over several",
            fix="start more with torchrun, or set backend.engine = 'torch'",
        )
    from recrl.backends.fsdp_backend import FsdpPolicy

    return FsdpPolicy


def _megatron(device: torch.device, tensor_parallel: int) -> type[DecoderPolicy]:
    prepare_megatron(device)
    from recrl.backends.megatron import parallel

    if not distributed.is_initialized():  # one process alone: Megatron-core wants a group even so
        store = distributed.HashStore()  # type: ignore[attr-defined]
        distributed.init_process_group(distributed_backend(device), store=store, rank=0, world_size=1)
    parallel.start(tensor_parallel)
    from recrl.backends.megatron_backend import MegatronPolicy

    return MegatronPolicy


ENGINES: dict[str, Callable[[torch.device, int], type[DecoderPolicy]]] = {
    "torch": _torch,
    "fsdp2": _fsdp2,
    "megatron": _megatron,
}
"""Name -> what prepares the engine for a device and a number of ranks a model, and gives its policy."""
