"""Text neighbours: items whose text is like that of the items that the user saw last.

Similarity of i and j is their cosine in ``text_embedding``, to a power that leaves the near ones, for the
``neighbours`` nearest items of i. A user's score weighs the last items as item-kNN does. It knows nothing of what
users did, so it scores an item that nobody took as well as any other.
Letters: U users, N items.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from recrl.baselines.item_knn import recency_weights
from recrl.data.dataset import Catalog, Sequences
from recrl.data.ragged import Ragged
from recrl.data.rows import chunks, evenly
from recrl.parts import Options, Part
from recrl.sids.encoders.tfidf_svd import unit_text

EXACT_ITEMS = 50_000
"""Up to so many items every pair is compared; above, an item's neighbours are sought in the nearest cells alone."""
ITEMS_A_CELL = 250
LARGEST_CELL = 1_000
CELLS_VISITED = 64
VECTORS_A_CELL = 64
ITERATIONS = 10
"""Vectors and rounds of k-means that the cells' centres are sought with."""
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


def fit(_train: Sequences, catalog: Catalog, options: TextKnnOptions) -> TextKnn:
    """Find every item's neighbours.

    Raises:
        DataError: no item has text.
    """
    if len(catalog) > EXACT_ITEMS:
        half = unit_text(catalog, options.seed, np.float16)
        return TextKnn(_in_cells(half, options), half, options)
    vectors = unit_text(catalog, options.seed, np.float32)
    return TextKnn(_among_all(vectors, options), vectors.astype(np.float16), options)


def _among_all(vectors: NDArray[np.float32], options: TextKnnOptions) -> sparse.csr_matrix:
    """[N, N] sparse float32: every pair is compared."""
    count, width = vectors.shape
    index = faiss.IndexFlatIP(width)
    index.add(vectors)
    parts = []
    for rows in chunks(count, ITEMS_AT_ONCE):
        cosine, found = index.search(vectors[rows], min(options.neighbours + 1, count))
        place = np.repeat(np.arange(len(found)), found.shape[1])
        similar, other = np.maximum(cosine.ravel(), 0) ** options.power, found.ravel()
        kept = (other >= 0) & (other != place + rows.start) & (similar > 0)
        part = sparse.csr_matrix((similar[kept], (place[kept], other[kept])), shape=(len(found), count))
        parts.append(part.astype(np.float32))
    return sparse.vstack(parts, format="csr")


def _in_cells(half: NDArray[np.float16], options: TextKnnOptions) -> sparse.csr_matrix:
    """[N, N] sparse float32: the items of a cell are compared with those of the cells that are nearest to it.

    One matrix product a cell takes half the time of a search item by item in faiss' inverted lists, which would hold a
    second copy of the vectors besides.
    """
    count, width = len(half), min(options.neighbours, len(half) - 1)
    cells, centres = _cells(half, options.seed)
    near = faiss.knn(centres, centres, min(CELLS_VISITED, len(cells)), metric=faiss.METRIC_INNER_PRODUCT)[1]
    other = np.zeros((count, width), np.int32)
    similar = np.zeros((count, width), np.float32)
    vectors = torch.from_numpy(half)
    for cell, own in enumerate(cells):
        seen = np.concatenate([cells[place] for place in near[cell]])
        cosine = vectors[own].float() @ vectors[seen].float().t()
        cosine[torch.from_numpy(own[:, None] == seen)] = 0
        found, place = cosine.topk(min(width, len(seen)), dim=1)
        other[own, : found.shape[1]] = seen[place.numpy()]
        similar[own, : found.shape[1]] = found.clamp_min_(0).pow_(options.power).numpy()
    ends = np.arange(0, count * width + 1, width)  # every row as long as the others: nothing has to be copied
    matrix = sparse.csr_matrix((similar.ravel(), other.ravel(), ends), shape=(count, count))
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def _cells(half: NDArray[np.float16], seed: int) -> tuple[list[NDArray[np.int64]], NDArray[np.float32]]:
    """The items with text, in parts of like ones, and each part's centre; a cell much larger than the others makes
    several parts of one centre.
    """
    items = np.flatnonzero(half.any(axis=1))
    count = max(1, len(items) // ITEMS_A_CELL)
    means = faiss.Kmeans(half.shape[1], count, niter=ITERATIONS, seed=seed + 1, spherical=True)
    means.train(half[items[evenly(len(items), count * VECTORS_A_CELL)]].astype(np.float32))
    parts = (
        means.index.search(half[items[rows]].astype(np.float32), 1)[1] for rows in chunks(len(items), ITEMS_AT_ONCE)
    )
    cell = np.concatenate(list(parts))[:, 0]
    centroids = np.asarray(means.centroids, np.float32)
    order = np.argsort(cell, kind="stable")
    found, starts = np.unique(cell[order], return_index=True)
    cells, centres = [], []
    for number, members in zip(found, np.split(items[order], starts[1:]), strict=True):
        pieces = np.array_split(members, -(-len(members) // LARGEST_CELL))
        cells += pieces
        centres += [centroids[number]] * len(pieces)
    return cells, np.stack(centres)


TEXT_KNN = Part(TextKnnOptions, fit, source="cosine of TF-IDF vectors")
