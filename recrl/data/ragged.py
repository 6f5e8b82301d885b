"""Lists of different lengths in two flat arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ragged:
    """Row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    Attributes:
        values: [sum of lengths] int32.
        offsets: [rows + 1] int64, from 0 to ``len(values)``.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        flat = [value for row in rows for value in row]
        return cls(np.asarray(flat, np.int32), offsets)

    @classmethod
    def empty(cls, rows: int) -> Ragged:
        """``rows`` rows without a value."""
        return cls(np.zeros(0, np.int32), np.zeros(rows + 1, np.int64))

    @classmethod
    def join(cls, parts: Sequence[Ragged]) -> Ragged:
        """Concatenated, in order."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(np.concatenate([part.values for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def padded(self, fill: int) -> NDArray[np.int64]:
        """[rows, longest length], ``fill`` after the end of a row."""
        lengths = self.lengths
        real = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
        rows = np.full(real.shape, fill, np.int64)
        rows[real] = self.values
        return rows

    def select(self, rows: NDArray[np.int64]) -> Ragged:
        """The named rows, in the order named."""
        return self.windows(self.offsets[rows], self.lengths[rows])

    def cut(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> Ragged:
        """Row ``i`` from ``start[i]`` up to ``stop[i]`` (positions within the row)."""
        return self.windows(self.offsets[:-1] + start, stop - start)

    def tail(self, limit: int) -> Ragged:
        """The last ``limit`` entries of every row."""
        return self.cut(np.maximum(self.lengths - limit, 0), self.lengths)

    def windows(self, begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> Ragged:
        """Row ``i`` is ``values[begins[i]:begins[i] + lengths[i]]``; windows may overlap."""
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        source = np.repeat(begins - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(self.values[source], offsets)
