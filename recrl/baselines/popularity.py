"""The items that occur most often in training, the same list for everyone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recrl.data.dataset import Catalog, Sequences
from recrl.data.frequency import counted, training_counts
from recrl.data.ragged import Ragged
from recrl.parts import Options, Part


@dataclass(frozen=True)
class Popularity:
    """``counts`` [N] float32: occurrences in training."""

    counts: NDArray[np.float32]

    def scores(self, histories: Ragged, own: Sequences | None = None) -> NDArray[np.float32]:
        """[U, N], every row the counts."""
        counts = np.broadcast_to(self.counts, (len(histories), len(self.counts)))
        if own is None:
            return counts
        left = counts.copy()
        np.subtract.at(left, counted(own), 1)
        return left


def fit(train: Sequences, catalog: Catalog, options: Options) -> Popularity:  # noqa: ARG001
    """Count the training interactions."""
    return Popularity(training_counts(train, len(catalog)).astype(np.float32))


POPULARITY = Part(Options, fit)
