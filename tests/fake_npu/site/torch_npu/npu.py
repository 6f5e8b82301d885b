"""``torch.npu``: what torch and transformers ask of a device's module."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

current_device = torch.accelerator.current_device_index
max_memory_allocated = torch.accelerator.max_memory_allocated
mem_get_info = torch.accelerator.get_memory_info
set_device = torch.accelerator.set_device_index
synchronize = torch.accelerator.synchronize
device = torch.accelerator.device_index

DEVICES = 2
default_generators: list[Generator] = [torch.ops.fake_npu.default_generator(index) for index in range(DEVICES)]


def device_count() -> int:
    return DEVICES


def is_available() -> bool:
    return True


def is_initialized() -> bool:
    return True


def _is_in_bad_fork() -> bool:
    return False


def _lazy_init() -> None:
    """Nothing waits for a first use."""


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.bfloat16, torch.float16]


def manual_seed_all(seed: int) -> None:
    for generator in default_generators:
        generator.manual_seed(seed)


def _generator(of: int | str | torch.device) -> Generator:
    index = of if isinstance(of, int) else torch.device(of).index
    return default_generators[current_device() if index is None else index]


def get_rng_state(device: int | str | torch.device = "npu") -> Tensor:
    return _generator(device).get_state()


def set_rng_state(state: Tensor, device: int | str | torch.device = "npu") -> None:
    _generator(device).set_state(state)


def get_device_name(device: int | str | torch.device = "npu") -> str:  # noqa: ARG001
    return "Ascend910B3"
