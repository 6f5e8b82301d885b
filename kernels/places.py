"""Ragged rows between their two shapes: one flat row of real tokens, and a padded grid.

Letters: T tokens, B rows, P places of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Places:
    """Where T tokens stand in a grid.

    Attributes:
        rows, width: B and P.
        index: [T] place of every token in the grid, row by row, all distinct.
    """

    rows: int
    width: int
    index: Tensor

    @classmethod
    def of(cls, length: Tensor, known: Sequence[int] | None = None) -> Places:
        """[B] lengths of concatenated rows.

        Args:
            known: the same in the host's memory; without it they are fetched from the device.
        """
        sizes = length.tolist() if known is None else known
        width = max(sizes, default=0)
        start = torch.arange(0, len(sizes) * width, max(width, 1), device=length.device)
        return cls(len(sizes), width, runs(start[: len(sizes)], length, sum(sizes)) if width else start[:0])

    @property
    def count(self) -> int:
        """T."""
        return len(self.index)

    @property
    def is_full(self) -> bool:
        """No padding: the two shapes are one."""
        return self.count == self.rows * self.width

    def padded(self, states: Tensor) -> Tensor:
        """[T, ...] -> [B, P, ...], 0 at the padding."""
        shape = states.shape[1:]
        if not self.is_full:
            flat = states.reshape(self.count, -1)
            grid = flat.new_zeros(self.rows * self.width, flat.shape[1])
            states = grid.index_copy(0, self.index, flat)
        return states.reshape(self.rows, self.width, *shape)

    def flat(self, states: Tensor) -> Tensor:
        """[B, P, ...] -> [T, ...]."""
        shape = states.shape[2:]
        every = states.reshape(self.rows * self.width, -1)
        return (every if self.is_full else take(every, self.index)).view(self.count, *shape)


def runs(start: Tensor, length: Tensor, total: int) -> Tensor:
    """[N] starts and lengths -> [total]: start, start + 1 ... of every run, concatenated.

    ``total`` is the sum of the lengths; with it there is no host-device sync.
    """
    begin = length.cumsum(0) - length
    offset = (start - begin).repeat_interleave(length, output_size=total)
    return torch.arange(total, device=length.device) + offset


def marked(mask: Tensor, total: int) -> Tensor:
    """[P] bool, of which ``total`` are True -> [total] their places; ``nonzero`` that does not wait for the device."""
    order = torch.where(mask, mask.cumsum(0) - 1, total)  # the others all go after the end
    place = torch.arange(len(mask), device=mask.device)
    return torch.zeros(total + 1, dtype=torch.long, device=mask.device).scatter_(0, order, place)[:total]


def take(states: Tensor, index: Tensor) -> Tensor:
    """[T, ...] -> [N, ...] at N distinct places.

    The gradient is a copy to these places: that of ``index_select`` adds row by row, as if a place could come twice.
    """
    out: Tensor = _Take.apply(states, index)  # type: ignore[no-untyped-call]
    return out


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = states.shape
        return states.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.shape).index_copy_(0, index, gradient), None
