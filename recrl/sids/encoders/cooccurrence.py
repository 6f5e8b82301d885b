"""Positive pointwise mutual information of training co-occurrence, and its SVD.

Source: Levy and Goldberg, "Neural word embedding as implicit matrix factorization" (2014), with the smoothed context
distribution and the weighted singular values of Levy, Goldberg and Dagan (2015).
"""

from __future__ import annotations

import numpy as np
from pydantic import Field
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from recrl.data.dataset import Catalog, Sequences
from recrl.errors import DataError
from recrl.parts import Options
from recrl.sids.encoders import Encoded, Encoder, unit_rows
from recrl.sids.threads import one_thread


class CooccurrenceOptions(Options):
    dim: int = Field(96, ge=1)
    window: int = Field(5, ge=1)
    """Largest distance, in interactions, at which two items of a sequence occur together."""
    decay: float = Field(1.0, ge=0)
    """A pair at distance k counts k ** -decay; 0 counts every pair as 1."""
    shift: float = 0.0
    """Subtracted from the mutual information, in nats (the log of word2vec's number of negatives)."""
    smoothing: float = Field(0.75, gt=0, le=1)
    """Exponent on the context's frequency; below 1 it takes weight from rare contexts."""
    self_weight: float = Field(0.0, ge=0)
    """Added to the diagonal: ties an item to itself, for items with few neighbours."""
    singular_power: float = Field(0.5, ge=0, le=1)
    """Singular values are raised to this: 1 is plain SVD, 0 gives every direction the same weight."""


def fit(catalog: Catalog, train: Sequences, options: CooccurrenceOptions, seed: int) -> Encoded:
    """Unit rows; an item that occurs with no other in training gets zeros, and they are counted.

    Raises:
        DataError: no two items occur together.
    """
    pairs = count_pairs(train, len(catalog), options.window, options.decay)
    information = positive_information(pairs, options.shift, options.smoothing)
    if information.nnz == 0:
        raise DataError(
            "no two items occur together in training",
            why="encoder cooccurrence has nothing to learn from",
            fix="set sid.encoder.kind to 'tfidf-svd', or lower sid.encoder.shift",
        )
    if options.self_weight:
        seen = np.diff(information.indptr) > 0
        information = (information + sparse.diags(options.self_weight * seen.astype(np.float64))).tocsr()
    dim = min(options.dim, max(len(catalog) - 1, 1))
    with one_thread():
        left, singular, _ = randomized_svd(information, dim, n_iter=6, random_state=seed)
    kept = singular > 1e-6 * singular[0]
    embedding = unit_rows(left[:, kept] * singular[kept] ** options.singular_power)
    known = np.diff(information.indptr) > 0
    embedding[~known] = 0  # the SVD leaves rounding there, which unit rows would blow up
    notes = {
        "dim": int(kept.sum()),
        "pairs": int(pairs.nnz // 2),
        "items_without_interactions": int((np.bincount(train.items.values, minlength=len(catalog)) == 0).sum()),
        "items_without_embedding": int((~known).sum()),
    }
    return Encoded(embedding, {}, notes)


def count_pairs(train: Sequences, num_items: int, window: int, decay: float) -> sparse.csr_matrix:
    """[items, items] symmetric weights of item pairs at distance 1 to ``window``.

    A pair counts where its later item is a target (``Sequences.first_target``). For whole histories that is every pair;
    for sliding samples, which repeat a user's history once a sample, it keeps each pair from counting many times.
    """
    items = train.items
    row = np.repeat(np.arange(len(items)), items.lengths)
    position = np.arange(len(items.values)) - np.repeat(items.offsets[:-1], items.lengths)
    is_target = position >= train.first_target[row] if len(row) else np.zeros(0, bool)
    total = sparse.csr_matrix((num_items, num_items), dtype=np.float64)
    for distance in range(1, window + 1):
        earlier, later = items.values[:-distance], items.values[distance:]
        # The same row, a true target, and not an item beside itself.
        counts = (row[:-distance] == row[distance:]) & is_target[distance:] & (earlier != later)
        pair = (earlier[counts], later[counts])
        weight = np.full(int(counts.sum()), float(distance) ** -decay)
        total += sparse.coo_matrix((weight, pair), shape=total.shape).tocsr()
    return (total + total.T).tocsr()


def positive_information(pairs: sparse.csr_matrix, shift: float, smoothing: float) -> sparse.csr_matrix:
    """max(0, log(P(i, j) / (P(i) P_smoothed(j))) - shift), for the pairs that occur."""
    if pairs.nnz == 0:
        return pairs
    pairs = pairs.tocoo()
    count = np.asarray(pairs.sum(axis=1)).ravel()
    context = count**smoothing
    context /= context.sum()
    information = np.log(pairs.data / (count[pairs.row] * context[pairs.col])) - shift
    kept = information > 0
    return sparse.csr_matrix((information[kept], (pairs.row[kept], pairs.col[kept])), shape=pairs.shape)


COOCCURRENCE = Encoder(CooccurrenceOptions, fit, "Levy and Goldberg 2014")
