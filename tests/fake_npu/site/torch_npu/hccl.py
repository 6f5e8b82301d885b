"""A process group named hccl: gloo on the host's view of the device's memory."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

SAME = ("allreduce", "allgather", "alltoall", "barrier", "broadcast", "gather", "recv", "reduce", "reduce_scatter")
COLLECTIVES = {name: name for name in (*SAME, "scatter", "send")} | {
    "_allgather_base": "_allgather_base",
    "all_gather_single": "_allgather_base",
    "_reduce_scatter_base": "_reduce_scatter_base",
    "reduce_scatter_single": "_reduce_scatter_base",
    "alltoall_base": "alltoall_base",
    "all_to_all_single": "alltoall_base",
}
"""A group's method, by its names in older and newer torch -> gloo's."""


def on_host(value: Any) -> Any:
    """Tensors of the device, however deep in lists, as the same bytes on the host.

    Raises:
        RuntimeError: a tensor lies on the host, which hccl can't reach.
    """
    if isinstance(value, list | tuple):
        return [on_host(one) for one in value]
    if not isinstance(value, torch.Tensor):
        return value
    if value.device.type != "npu":
        raise RuntimeError(f"No backend type associated with device type {value.device.type}")
    return torch.ops.fake_npu.host_alias(value)


class HcclGroup(dist.ProcessGroup):
    """Collectives of device tensors alone."""

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self.gloo = dist.ProcessGroupGloo(store, rank, size, timeout)

    def getBackendName(self) -> str:  # noqa: N802
        return "hccl"


def _collective(name: str) -> Callable[..., Any]:
    def run(self: HcclGroup, *arguments: Any, **options: Any) -> Any:
        return getattr(self.gloo, name)(*map(on_host, arguments), **options)

    return run


for asked, done in COLLECTIVES.items():
    setattr(HcclGroup, asked, _collective(done))
dist.Backend.register_backend("hccl", HcclGroup, devices=["npu"])
