"""The one file that knows devices: choice, memory, arithmetic, what carries collectives, what Megatron-core needs."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from recrl.device.loading import FAILURES, explain_broken_npu, first_line
from recrl.errors import RunError, UserError

logger = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COLLECTIVES = {"cuda": "nccl", "npu": "hccl", "cpu": "gloo"}
"""Device type -> the backend of torch.distributed that carries its tensors."""


def choose_device(wanted: str) -> torch.device:
    """``auto`` takes the accelerator if there is one and says so; any other name works or fails.

    Raises:
        UserError: the device is not available on this machine.
    """
    if wanted == "auto":
        device = _accelerator() or torch.device("cpu")
        logger.info("device: %s", device)
        return device
    if wanted.split(":")[0] == "npu":
        _load_npu()
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device).cpu()  # "meta" has no data to give back
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"backend.device = {wanted!r}", why=first_line(error), fix="`recrl doctor` lists what this machine has"
        ) from None
    return device


def local_device(wanted: str, local_rank: int) -> torch.device:
    """The device of one process of a node, made the current one; processes on CPU share it.

    Args:
        wanted: as in ``choose_device``; an index is that of rank 0.
        local_rank: the process's place on its node, from 0.

    Raises:
        UserError: the device is not available, or the node has fewer of them than processes.
    """
    device = choose_device(wanted)
    if device.type == "cpu":
        return device
    index, count = (device.index or 0) + local_rank, torch.accelerator.device_count()
    if index >= count:
        raise UserError(
            f"backend.device = {wanted!r}",
            why=f"process {local_rank} of this node would need {device.type}:{index}, and the node has {count}",
            fix=f"start {count - (device.index or 0)} processes a node or fewer",
        )
    torch.accelerator.set_device_index(index)
    return torch.device(device.type, index)


def distributed_backend(device: torch.device) -> str:
    """The backend of torch.distributed for tensors on a device."""
    return COLLECTIVES[device.type]


def _accelerator() -> torch.device | None:
    """What answers; a word in the log where torch-npu is installed and does not."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None and importlib.util.find_spec("torch_npu") is not None:
        try:
            _load_npu()
        except UserError as error:
            logger.warning("no NPU: %s", error)
        else:
            found = torch.accelerator.current_accelerator(check_available=True)
    return found


def _load_npu() -> None:
    """Import torch-npu where torch has not, and see that it found a device."""
    found = "backend.device = 'npu'"
    if not hasattr(torch, "npu"):
        if importlib.util.find_spec("torch_npu") is None:
            fix = f"install CANN and the torch-npu for torch {torch.__version__}"
            raise UserError(found, why="torch-npu is not installed", fix=fix)
        with explain_broken_npu():
            importlib.import_module("torch_npu")
    if not torch.get_device_module("npu").is_available():
        fix = "check `npu-smi info` and ASCEND_RT_VISIBLE_DEVICES"
        raise UserError(found, why="torch-npu is installed and finds no NPU", fix=fix)


def prepare_megatron(device: torch.device) -> None:
    """Call before megatron-core is first imported: on Ascend, MindSpeed has to change it and torch beforehand.

    Raises:
        UserError: MindSpeed is missing or does not load.
    """
    if device.type != "npu":
        return
    assert "megatron.core" not in sys.modules or "mindspeed" in sys.modules, "megatron-core was imported too early"
    found = "megatron-core on an NPU"
    if importlib.util.find_spec("mindspeed") is None:
        raise UserError(
            found, why="MindSpeed is not installed", fix="install the MindSpeed release for this megatron-core"
        )
    try:
        with _no_arguments():
            importlib.import_module("mindspeed.megatron_adaptor")
    except FAILURES as error:
        raise UserError(
            found,
            why=f"MindSpeed does not load: {first_line(error)}",
            fix="install the MindSpeed release for this megatron-core and this torch-npu",
        ) from None


@contextmanager
def _no_arguments() -> Iterator[None]:
    """Hide the command line's arguments from a module that parses them on import."""
    given = sys.argv
    sys.argv = given[:1]
    try:
        yield
    finally:
        sys.argv = given


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    """Arithmetic of matrix products; float32 leaves everything alone."""
    return torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32")


def peak_memory_gb(device: torch.device) -> float:
    """The most memory that the process held, in 10^9 bytes: allocated on an accelerator, resident on CPU."""
    if device.type != "cpu":
        own = torch.get_device_module(device)  # before torch 2.9 nothing else counts memory
        statistics = torch.accelerator if hasattr(torch.accelerator, "max_memory_allocated") else own
        return float(statistics.max_memory_allocated(device)) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@contextmanager
def explained_memory() -> Iterator[None]:
    """A device's memory that is used up is a failure with words.

    Raises:
        RunError: in place of what torch raises.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            "the device's memory is used up",
            why=first_line(error),
            fix="lower backend.token_budget and go on with --resume; `recrl profile size` tells what a step needs",
        ) from None


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read afterwards means something."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
