"""Ragged rows between their two shapes: one flat row of real tokens, and a padded grid.

Letters: T tokens, B rows, P places of the longest row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
    def of(cls, length: Tensor) -> Places:
        """[B] lengths of rows that stand one behind the other."""
        width = int(length.max()) if len(length) else 0
        return cls.where(torch.arange(width, device=length.device) < length[:, None])

    @classmethod
    def where(cls, real: Tensor) -> Places:
        """[B, P] bool: the places that hold a token."""
        rows, width = real.shape
        return cls(rows, width, real.flatten().nonzero().squeeze(1))

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
        return (every if self.is_full else every.index_select(0, self.index)).view(self.count, *shape)
