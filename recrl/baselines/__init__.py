"""Recommenders that every table is compared with. ``BASELINES`` names them.

A baseline is ``run(train: Sequences, catalog: Catalog, options) -> Scorer``. It is fitted on training sequences only;
the history that it later scores may hold items from after them (for the test split: the valid item).
Letters: U users, N items.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recrl.data.dataset import Sequences
from recrl.data.ragged import Ragged
from recrl.data.top_k import top_k

BASELINES = {
    "popularity": "recrl.baselines.popularity:POPULARITY",
    "item_knn": "recrl.baselines.item_knn:ITEM_KNN",
    "text_knn": "recrl.baselines.text_knn:TEXT_KNN",
    "hybrid_knn": "recrl.baselines.hybrid_knn:HYBRID_KNN",
    "sasrec": "recrl.baselines.sasrec:SASREC",
}

RECALLERS = {kind: BASELINES[kind] for kind in ("item_knn", "text_knn", "hybrid_knn")}
"""Those whose scores are sparse, so that a memory can keep the few items that a history speaks for."""

COMPARED = ("popularity", "item_knn", "hybrid_knn")
"""Those that stand in every table; the others are asked for by name."""


class Scorer(Protocol):
    """A fitted baseline."""

    def scores(self, histories: Ragged, own: Sequences | None = None) -> NDArray[np.float32]:
        """[U, N]: higher is better. Holds 4 * U * N bytes: pass users in chunks, as ``recommend`` does.

        ``own`` are the U training sequences that the histories were cut from: what they themselves added to the counts
        is taken out again, so that a history is scored by what all others did, as one from outside training is.
        """


def recommend(scorer: Scorer, histories: Ragged, k: int, *, users_per_chunk: int = 1024) -> NDArray[np.int32]:
    """[U, k] item indices over the whole catalogue, items of the history included; ties go to the lower index."""
    chunks = [np.zeros((0, k), np.int32)]
    for start in range(0, len(histories), users_per_chunk):
        rows = np.arange(start, min(start + users_per_chunk, len(histories)))
        chunks.append(top_k(scorer.scores(histories.select(rows)), k))
    return np.concatenate(chunks)
