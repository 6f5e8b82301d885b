"""A stand-in for torch-npu: the device that ``fake_npu.cpp`` makes, under the real package's name.

With this folder's parent on PYTHONPATH torch loads it by itself, as it loads the real one, through the entry point
beside it. ``FAKE_NPU_LIBRARY`` names the compiled library, ``FAKE_NPU_MEMORY_BYTES`` limits a device's memory.
"""

from __future__ import annotations

import importlib
import os
import sys

import torch

torch.ops.load_library(os.environ["FAKE_NPU_LIBRARY"])
torch.utils.rename_privateuse1_backend("npu")

npu = importlib.import_module("torch_npu.npu")  # now that the library has brought the device that it asks for
torch._register_device_module("npu", npu)
sys.modules["torch.npu"] = npu
torch.utils.generate_methods_for_privateuse1_backend()
importlib.import_module("torch_npu.hccl")


def _autoload() -> None:
    """Called by torch; importing this package has done everything."""


def npu_fusion_attention(*_: object, **__: object) -> None:
    """transformers imports it wherever torch-npu is; nothing here may attend through it."""
    raise NotImplementedError
