"""The processes of a run: which one this is, what it takes of the work, and how the parts come together.

A run of one process and a run of many are the same run: every rank draws the same prompts and holds the whole step's
groups, rewards and advantages; only what needs the model is shared out, in contiguous parts, and gathered in order.

Ranks of one model stand side by side: with tensor parallelism of T, ranks 0 to T - 1 hold the first copy of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from recrl.device.runtime import distributed_backend
from recrl.errors import UserError
from recrl.processes import started_together

T = TypeVar("T")
BUCKET_BYTES = 64 * 2**20
"""Gradients that are added up over ranks at once."""
TIMEOUT = timedelta(minutes=30)
"""A rank that waits this long for another has lost it; one that died is noticed by the launcher at once."""


@dataclass(frozen=True)
class Ranks:
    """Where this process stands.

    Attributes:
        rank: of all processes.
        size: all processes.
        tensor_parallel: ranks that hold one copy of the model together.
        data_group: ranks that hold the same part of a model; None where there is one copy.
        host_group: ``data_group`` for what lies in the host's memory.
        all_group: all ranks, for what lies in the host's memory.
    """

    rank: int = 0
    size: int = 1
    tensor_parallel: int = 1
    data_group: Any = None
    host_group: Any = None
    all_group: Any = None

    @property
    def is_first(self) -> bool:
        """The one that writes files and speaks to the user."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Which copy of the model this rank belongs to."""
        return self.rank // self.tensor_parallel

    @property
    def data_size(self) -> int:
        """Copies of the model."""
        return self.size // self.tensor_parallel

    def share(self, costs: Sequence[int]) -> slice:
        """What this rank takes of pieces that stand in order: parts of about the same cost, some may be empty."""
        total, ends = sum(costs), [0, *accumulate(costs)]
        middle = [(before + after) / 2 for before, after in pairwise(ends)]
        # A piece belongs to the rank in whose equal share of the total its middle lies.
        owner = [min(int(place * self.data_size / total), self.data_size - 1) if total else 0 for place in middle]
        begin = sum(who < self.data_rank for who in owner)
        return slice(begin, begin + sum(who == self.data_rank for who in owner))

    def all_gather(self, mine: T) -> list[T]:
        """What every copy of the model has made, in their order; tensors have to lie in the host's memory."""
        if self.data_group is None:
            return [mine]
        parts: list[Any] = [None] * self.data_size
        dist.all_gather_object(parts, mine, group=self.host_group)
        return parts

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over the copies of the model, in place."""
        if self.data_group is not None:
            dist.all_reduce(values, group=self.data_group)
        return values

    def all_reduce_many(self, tensors: Iterable[Tensor]) -> None:
        """Every tensor becomes its sum over the copies of the model; small ones travel together."""
        if self.data_group is None:
            return
        for bucket in buckets(list(tensors), BUCKET_BYTES):
            flat = self.all_reduce(torch.cat([tensor.flatten() for tensor in bucket]))
            for tensor, total in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def broadcast(self, tensor: Tensor, owner: int) -> None:
        """Overwrite ``tensor`` with that of the copy ``owner``."""
        if self.data_group is not None:
            source = owner * self.tensor_parallel + self.rank % self.tensor_parallel
            dist.broadcast(tensor, source, group=self.data_group)

    def broadcast_from_first(self, mine: T) -> T:
        """What the first rank has."""
        if self.all_group is None:
            return mine
        box = [mine]
        dist.broadcast_object_list(box, 0, group=self.all_group)
        return box[0]

    def barrier(self) -> None:
        """Until all ranks are here."""
        if self.all_group is not None:
            dist.barrier(self.all_group)


ALONE = Ranks()


def buckets(tensors: list[Tensor], limit: int) -> list[list[Tensor]]:
    """Neighbours of one type together, at most ``limit`` bytes unless a single one has more."""
    parts: list[list[Tensor]] = []
    held = 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if not parts or held + size > limit or parts[-1][0].dtype != tensor.dtype:
            parts.append([])
            held = 0
        parts[-1].append(tensor)
        held += size
    return parts


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that is shared out; any other tensor as it is."""
    part: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return part


def join(device: torch.device, tensor_parallel: int = 1) -> Ranks:
    """Find the other processes that torchrun started.

    Raises:
        UserError: their number does not divide into models.
    """
    size = started_together()
    if size % tensor_parallel:
        raise UserError(
            f"backend.tensor_parallel = {tensor_parallel}",
            why=f"{size} process{'es were' if size > 1 else ' was'} started, which makes no whole number of models",
            fix=f"start a multiple of {tensor_parallel} with torchrun, or set backend.tensor_parallel",
        )
    return ALONE if size == 1 else _connected(distributed_backend(device), tensor_parallel)


@cache
def _connected(backend: str, tensor_parallel: int) -> Ranks:
    """Groups are made once: all ranks have to make all of them, and they stay."""
    if not dist.is_initialized():
        dist.init_process_group(backend, timeout=TIMEOUT)
    rank, size = dist.get_rank(), dist.get_world_size()
    peers = [list(range(first, size, tensor_parallel)) for first in range(tensor_parallel)]
    several = size > tensor_parallel
    return Ranks(
        rank,
        size,
        tensor_parallel,
        _own(peers, rank) if several else None,
        _own(peers, rank, "gloo") if several else None,
        _own([list(range(size))], rank, "gloo"),
    )


def _own(groups: list[list[int]], rank: int, backend: str | None = None) -> Any:
    """The group that this rank is in; all ranks have to make all groups."""
    made = [(members, dist.new_group(members, timeout=TIMEOUT, backend=backend)) for members in groups]
    return next(group for members, group in made if rank in members)


def leave() -> None:
    """Take leave of the other processes, at the end of a command."""
    if dist.is_initialized():
        _connected.cache_clear()
        dist.destroy_process_group()
