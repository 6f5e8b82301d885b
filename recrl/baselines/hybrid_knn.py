"""Item-kNN and text neighbours added: what users did where they did much, what the text says where they did little.

    score = max(shrinkage, 1) * item_knn + text_weight * text_knn

The factor makes one co-occurrence of two rare items count about 1 whatever the shrinkage, which ``text_weight`` is
measured against. ``text_weight = "auto"`` chooses it on the training sequences: the last item of a sequence is ranked
by the items before it, without the sequence's own counts, and the weight with the highest NDCG@10 is taken.
Letters: U users, N items.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from recrl.baselines import item_knn, text_knn
from recrl.baselines.item_knn import ItemKnn, ItemKnnOptions
from recrl.baselines.text_knn import TextKnn, TextKnnOptions
from recrl.data.dataset import Catalog, Sequences
from recrl.data.frequency import membership
from recrl.data.ragged import Ragged
from recrl.data.rows import chunks
from recrl.errors import DataError
from recrl.parts import Options, Part
from recrl.seeding import generator

logger = logging.getLogger(__name__)
Kind = TypeVar("Kind", bound=Options)
GRID = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.2, 1.6, 2.4, 3.2)
"""Weights that "auto" compares."""
K = 10
SEQUENCES_AT_ONCE = 512


TextWeight = Annotated[float, Field(ge=0)]


class HybridKnnOptions(ItemKnnOptions, TextKnnOptions):
    """Options of both parts."""

    text_weight: TextWeight | Literal["auto"] = "auto"
    """Weight of the text neighbours beside co-occurrence; ``"auto"`` measures it on the training sequences."""
    tuning_sequences: int = Field(4000, ge=1)
    """Training sequences that ``"auto"`` looks at, drawn from the seed."""


class Evidence(NamedTuple):
    """[U, N] sparse float32 each: what co-occurrence says, and what the text says with its weight."""

    together: sparse.csr_matrix
    text: sparse.csr_matrix


@dataclass(frozen=True)
class HybridKnn:
    """Both fitted parts; ``text`` is None where no item has text, and then this is item-kNN."""

    together: ItemKnn
    text: TextKnn | None
    text_weight: float

    def scores(self, histories: Ragged, own: Sequences | None = None) -> NDArray[np.float32]:
        """[U, N]; a history of which nothing is known scores 0 everywhere."""
        return np.asarray(self.sparse_scores(histories, own).toarray(), np.float32)

    def sparse_scores(self, histories: Ragged, own: Sequences | None = None) -> sparse.csr_matrix:
        """The same as [U, N] sparse float32, without the zeros."""
        evidence = self.evidence(histories, own)
        return (evidence.together + evidence.text).tocsr()

    def closeness(self, histories: Ragged, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """As ``TextKnn.closeness``; without text there is nothing to compare."""
        return (self.together if self.text is None else self.text).closeness(histories, items)

    def evidence(self, histories: Ragged, own: Sequences | None = None) -> Evidence:
        """The two summands of the score."""
        together = self.together.sparse_scores(histories, own) * np.float32(max(self.together.options.shrinkage, 1))
        if self.text is None:
            return Evidence(together, sparse.csr_matrix(together.shape, dtype=np.float32))
        return Evidence(together, self.text.sparse_scores(histories) * np.float32(self.text_weight))


def fit(train: Sequences, catalog: Catalog, options: HybridKnnOptions) -> HybridKnn:
    """Fit both parts and, where it is wanted, the weight between them."""
    together = item_knn.fit(train, catalog, _part(options, ItemKnnOptions))
    try:
        text = text_knn.fit(train, catalog, _part(options, TextKnnOptions))
    except DataError as error:
        logger.warning("hybrid_knn is item_knn here: %s", error.found)
        return HybridKnn(together, None, 0.0)
    if options.text_weight != "auto":
        return HybridKnn(together, text, options.text_weight)
    return HybridKnn(together, text, _best_weight(HybridKnn(together, text, 1.0), train, options))


def _part(options: HybridKnnOptions, kind: type[Kind]) -> Kind:
    """Those of the options that one part has."""
    return kind.model_validate({name: getattr(options, name) for name in kind.model_fields})


def _best_weight(hybrid: HybridKnn, train: Sequences, options: HybridKnnOptions) -> float:
    """The weight of the grid under which the ends of training sequences are ranked best; the smallest of equal ones."""
    usable = np.flatnonzero(train.items.lengths >= 2)
    if not len(usable):
        return 0.0
    drawn = generator(options.seed, "hybrid_knn").permutation(usable)[: options.tuning_sequences]
    own = train.select(np.sort(drawn))
    end = own.items.lengths
    histories, targets = own.items.cut(np.zeros_like(end), end - 1), own.items.cut(end - 1, end).values
    parts = []
    for rows in (np.arange(len(own))[one] for one in chunks(len(own), SEQUENCES_AT_ONCE)):
        some, wanted = histories.select(rows), targets[rows]
        evidence = hybrid.evidence(some, own.select(rows))
        parts.append([_ndcg((evidence.together + weight * evidence.text).tocsr(), some, wanted) for weight in GRID])
    gains = np.concatenate(parts, axis=1).mean(axis=1)
    chosen = int(gains.argmax())
    logger.info(
        "hybrid_knn: text_weight = %s, NDCG@%d %.4f on the ends of %d training sequences (%.4f without text)",
        *(GRID[chosen], K, gains[chosen], len(own), gains[0]),
    )
    return GRID[chosen]


def _ndcg(scores: sparse.csr_matrix, histories: Ragged, targets: NDArray[np.int32]) -> NDArray[np.float64]:
    """[U] NDCG@K of one target a row; other items of the history are left out, and a score of 0 is no hit."""
    rows = np.arange(len(targets))
    own = np.asarray(scores[rows, targets]).ravel()
    row = np.repeat(rows, np.diff(scores.indptr))
    above = np.bincount(row[scores.data > own[row]], minlength=len(rows))
    known = scores.multiply(membership(histories, scores.shape[1])).tocsr()
    row = np.repeat(rows, np.diff(known.indptr))
    rank = above - np.bincount(row[known.data > own[row]], minlength=len(rows))
    return np.where((own > 0) & (rank < K), 1 / np.log2(rank + 2), 0)


HYBRID_KNN = Part(HybridKnnOptions, fit, source="item-kNN and cosine of TF-IDF vectors")
