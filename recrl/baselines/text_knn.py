"""Text neighbours: items whose text is like that of the items that the user saw last.

Similarity of i and j is their cosine in ``text_embedding``, to a power that leaves the near ones, for the
``neighbours`` nearest items of i. A user's score weighs the last items as item-kNN does. It knows nothing of what
users did, so it scores an item that nobody took as well as any other.
Letters: U users, N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from recrl.baselines.item_knn import recency_weights
from recrl.data.dataset import Catalog, Sequences
from recrl.data.ragged import Ragged
from recrl.data.rows import chunks, evenly
from recrl.parts import Options, Part
from recrl.sids.encoders import unit_rows
from recrl.sids.encoders.tfidf_svd import text_embedding

EXACT_ITEMS = 50_000
"""Up to so many items every pair is compared; above, an item's neighbours are sought in the nearest cells alone."""
ITEMS_A_CELL = 250
CELLS_VISITED = 32
VECTORS_A_CELL = 64
"""That the cells' centres are sought from."""
ITEMS_AT_ONCE = 16_384
CLOSE_TO = 3
"""Last items of a history that ``closeness`` compares with one by one."""


class TextKnnOptions(Options):
    neighbours: int = Field(100, ge=1)
    """Nearest items of an item that count."""
    power: float = Field(4.0, gt=0, le=64)
    """Of the cosine; larger: the nearest ones alone."""
    num_recent: int = Field(10, ge=1)
    """Items of the history that are looked at."""
    seed: int = 0
    """Of the text embedding's SVD."""


@dataclass(frozen=True)
class TextKnn:
    """A fitted model.

    Attributes:
        similarity: [N, N] sparse float32, from history item to candidate.
        vectors: [N, D] float16 of length 1, or 0 where an item has no text.
    """

    similarity: sparse.csr_matrix
    vectors: NDArray[np.float16]
    options: TextKnnOptions

    def scores(self, histories: Ragged, own: Sequences | None = None) -> NDArray[np.float32]:
        """[U, N]; ``own`` changes nothing, since no count is behind it."""
        return np.asarray(self.sparse_scores(histories, own).toarray(), np.float32)

    def sparse_scores(self, histories: Ragged, own: Sequences | None = None) -> sparse.csr_matrix:  # noqa: ARG002
        """The same as [U, N] sparse float32, without the zeros."""
        weights = recency_weights(histories, self.options.num_recent, self.similarity.shape[0])
        return (weights @ self.similarity).tocsr()

    def evidence(self, histories: Ragged, own: Sequences | None = None) -> tuple[sparse.csr_matrix, ...]:
        """As ``recrl.memory.recall.Recaller`` has it: the score alone."""
        return (self.sparse_scores(histories, own),)

    def closeness(self, histories: Ragged, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """[U, M] items, -1 for none -> [U, M, CLOSE_TO]: cosine with the last items of the history, the last one first;
        0 where there is none.
        """
        place = histories.lengths[:, None] - 1 - np.arange(CLOSE_TO)
        last = np.full(place.shape, -1)
        last[place >= 0] = histories.values[(histories.offsets[:-1, None] + place)[place >= 0]]
        own, asked = (self.vectors[np.maximum(rows, 0)].astype(np.float32) for rows in (items, last))
        cosine = np.einsum("umd,ukd->umk", own, asked, optimize=True)
        return np.where((items[:, :, None] >= 0) & (last[:, None] >= 0), cosine, 0).astype(np.float32)


def fit(train: Sequences, catalog: Catalog, options: TextKnnOptions) -> TextKnn:
    """Find every item's neighbours.

    Raises:
        DataError: no item has text.
    """
    vectors: NDArray[np.floating[Any]] = text_embedding(catalog, train, options.seed)
    for rows in chunks(len(vectors), ITEMS_AT_ONCE):
        vectors[rows] = unit_rows(vectors[rows])
    index = _index(vectors, options.seed)
    half = vectors.astype(np.float16)
    if len(vectors) > EXACT_ITEMS:  # no room for both beside the index, which is not exact either
        vectors = half
    parts = [_nearest(index, vectors, rows, options) for rows in chunks(len(vectors), ITEMS_AT_ONCE)]
    return TextKnn(sparse.vstack(parts, format="csr"), half, options)


def _nearest(
    index: faiss.Index, vectors: NDArray[np.floating[Any]], rows: slice, options: TextKnnOptions
) -> sparse.csr_matrix:
    """[rows, N] sparse float32: similarities of some items to their neighbours."""
    count = len(vectors)
    cosine, found = index.search(vectors[rows].astype(np.float32), min(options.neighbours + 1, count))
    place = np.repeat(np.arange(len(found)), found.shape[1])
    similar, other = np.maximum(cosine.ravel(), 0) ** options.power, found.ravel()
    kept = (other >= 0) & (other != place + rows.start) & (similar > 0)
    shape = (len(found), count)
    return sparse.csr_matrix((similar[kept], (place[kept], other[kept])), shape=shape).astype(np.float32)


def _index(vectors: NDArray[np.floating[Any]], seed: int) -> faiss.Index:
    """Searches by inner product; of many items it keeps half precision."""
    count, width = vectors.shape
    flat = faiss.IndexFlatIP(width)
    if count <= EXACT_ITEMS:
        flat.add(vectors)
        return flat
    half = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(flat, width, count // ITEMS_A_CELL, half, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed + 1
    index.nprobe = CELLS_VISITED
    index.train(vectors[evenly(count, count // ITEMS_A_CELL * VECTORS_A_CELL)])
    for rows in chunks(count, ITEMS_AT_ONCE):
        index.add(vectors[rows])
    return index


TEXT_KNN = Part(TextKnnOptions, fit, source="cosine of TF-IDF vectors")
