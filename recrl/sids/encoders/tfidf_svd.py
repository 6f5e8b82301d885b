"""TF-IDF and truncated SVD, one block a field: the encoder that needs no download.

Every field is its own block because one TF-IDF over all text collapses onto whichever field repeats itself, such as the
category: on Amazon Toys that left 6,214 distinct paths where separate blocks left 7,707.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd

from recrl.data.dataset import Catalog, Sequences
from recrl.data.rows import chunks, evenly
from recrl.errors import DataError
from recrl.parts import Options
from recrl.sids.encoders import Arrays, Encoded, Encoder, Matrix, prefixed, unit_rows, unprefixed
from recrl.sids.threads import one_thread

# A category is one term, spaces and all; a path of categories ("Toys|Dolls", "Toys > Dolls") is several.
CATEGORY_TERM = r"[^\s|>](?:[^|>\n]*[^\s|>])?"
WORD = r"(?u)\b\w\w+\b"
SVD_ITEMS = 100_000
"""Of a larger catalogue so many items, at even distances, have to do for the SVD: its work space is dense."""
ROWS_AT_ONCE = 16_384


class TfidfSvdOptions(Options):
    title_dim: int = Field(192, ge=1)
    title_weight: float = Field(1.0, ge=0)
    """Length of this block in every item's vector; 0 leaves the block out. The same for the other fields."""
    category_dim: int = Field(48, ge=1)
    category_weight: float = Field(0.6, ge=0)
    brand_dim: int = Field(48, ge=1)
    brand_weight: float = Field(0.4, ge=0)
    description_dim: int = Field(128, ge=1)
    description_weight: float = Field(0.5, ge=0)
    max_ngram: int = Field(2, ge=1, le=4)
    """Longest run of words in titles and descriptions that counts as a term."""
    min_items: int = Field(2, ge=1)
    """Items that a term must occur in."""
    max_terms: int = Field(200_000, ge=1)
    """Most frequent terms kept in a field."""
    singular_power: float = Field(1.0, ge=0, le=1)
    """Singular values are raised to this: 1 is plain SVD, 0 gives every direction the same weight."""


class Block(NamedTuple):
    """One field: its texts and how it is read."""

    name: str
    texts: list[str]
    dim: int
    weight: float
    words: bool


class Projected(NamedTuple):
    """One field read: [items, terms] weights of its terms, their [terms, d] projection, and the length of its rows."""

    counts: sparse.csr_matrix
    projection: NDArray[np.floating[Any]]
    weight: float


def fit(catalog: Catalog, _train: Sequences, options: TfidfSvdOptions, seed: int) -> Encoded:
    """Blocks of unit rows, times their weights, side by side.

    Raises:
        DataError: no item has any text.
    """
    parts, arrays, notes = _read(catalog, options, seed)
    embedding = _side_by_side(parts)
    notes["items_without_text"] = int((~embedding.any(axis=1)).sum())
    return Encoded(embedding, arrays, notes)


def _read(catalog: Catalog, options: TfidfSvdOptions, seed: int) -> tuple[list[Projected], Arrays, dict[str, Any]]:
    """Every field that says something, what ``apply`` needs of it, and notes."""
    parts: list[Projected] = []
    arrays: Arrays = {}
    notes: dict[str, Any] = {"dims": {}, "left_out": {}, "shrunk": {}}
    for block in _blocks(catalog, options):
        vectorizer, counts = _fit_terms(block, options)
        if vectorizer is None:
            notes["left_out"][block.name] = "no item has a term in it"
            continue
        with one_thread():
            learned = _fit_svd(counts, block.dim, options.singular_power, seed)
        terms = "\n".join(vectorizer.get_feature_names_out()).encode()
        learned |= {"terms": np.frombuffer(terms, np.uint8).copy(), "idf": vectorizer.idf_.astype(np.float32)}
        dim = learned["projection"].shape[1]
        notes["dims"][block.name] = dim
        if dim < block.dim:
            notes["shrunk"][block.name] = f"{block.dim} -> {dim}: {counts.shape[0]} items, {counts.shape[1]} terms"
        arrays |= prefixed(block.name, learned)
        parts.append(Projected(counts, learned["projection"], block.weight))
    if not parts:
        raise DataError(
            "no item of the catalogue has text",
            why="encoder tfidf-svd has nothing to read",
            fix="prepare the data with titles, or set sid.encoder.kind to 'cooccurrence'",
        )
    return parts, arrays, notes


def apply(catalog: Catalog, arrays: Arrays, options: TfidfSvdOptions) -> Matrix:
    """[items, d] for new items; terms that the fit did not see are ignored."""
    parts = []
    for block in _blocks(catalog, options):
        learned = unprefixed(block.name, arrays)
        if learned:
            terms = learned["terms"].tobytes().decode().split("\n")
            vectorizer = _vectorizer(block, options, vocabulary=terms)
            vectorizer.idf_ = learned["idf"].astype(np.float64)
            parts.append(Projected(vectorizer.transform(block.texts), learned["projection"], block.weight))
    return _side_by_side(parts)


def _side_by_side(parts: list[Projected]) -> Matrix:
    """[items, d] float32; some rows at once, since a whole block beside it would double what it takes."""
    embedding = _empty(parts, np.float32)
    for rows in chunks(len(embedding), ROWS_AT_ONCE):
        embedding[rows] = _some_rows(parts, rows)
    return embedding


def _some_rows(parts: list[Projected], rows: slice) -> Matrix:
    blocks = [part.weight * unit_rows(part.counts[rows] @ part.projection) for part in parts]
    return np.concatenate(blocks, axis=1, dtype=np.float32)


def _empty(parts: list[Projected], dtype: type[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    return np.empty((parts[0].counts.shape[0], sum(part.projection.shape[1] for part in parts)), dtype)


def _blocks(catalog: Catalog, options: TfidfSvdOptions) -> list[Block]:
    blocks = [
        Block("title", catalog.titles, options.title_dim, options.title_weight, words=True),
        Block("category", catalog.categories, options.category_dim, options.category_weight, words=False),
        Block("brand", catalog.brands, options.brand_dim, options.brand_weight, words=False),
        Block("description", catalog.descriptions, options.description_dim, options.description_weight, words=True),
    ]
    return [block for block in blocks if block.weight > 0]


def _vectorizer(block: Block, options: TfidfSvdOptions, **extra: Any) -> TfidfVectorizer:
    if not block.words:
        return TfidfVectorizer(token_pattern=CATEGORY_TERM, lowercase=False, max_features=options.max_terms, **extra)
    return TfidfVectorizer(
        token_pattern=WORD,
        ngram_range=(1, options.max_ngram),
        sublinear_tf=True,
        stop_words="english",
        max_features=options.max_terms,
        **extra,
    )


def _fit_terms(block: Block, options: TfidfSvdOptions) -> tuple[TfidfVectorizer | None, sparse.csr_matrix]:
    """A fitted vectorizer and its [items, terms] weights; None where the field holds no term at all."""
    found = _vectorizer(block, options).build_analyzer()
    if not any(found(text) for text in block.texts):
        return None, sparse.csr_matrix((len(block.texts), 0))
    # Rare terms can be all there is, as in a catalogue of ten items.
    for min_items in (options.min_items if block.words else 1, 1):
        vectorizer = _vectorizer(block, options, min_df=min(min_items, len(block.texts)))
        try:
            return vectorizer, vectorizer.fit_transform(block.texts)
        except ValueError as error:
            if "no terms remain" not in str(error).lower():
                raise
    raise AssertionError("a field with terms keeps them at min_df = 1")


def _fit_svd(counts: sparse.csr_matrix, dim: int, power: float, seed: int) -> Arrays:
    """``projection`` [terms, d]: ``counts @ projection`` = U S^power."""
    counts = counts[evenly(counts.shape[0], SVD_ITEMS)]
    largest: int = min(counts.shape)
    dim = min(dim, largest)
    _, singular, components = randomized_svd(counts, dim, n_iter=6, random_state=seed)
    return {"projection": np.ascontiguousarray(components.T * _scale(singular, power - 1), np.float32)}


def _scale(singular: NDArray[Any], exponent: float) -> NDArray[Any]:
    """singular ** exponent, with 0 for directions that hold nothing but rounding."""
    kept = singular > 1e-6 * singular.max(initial=0)
    return np.where(kept, np.where(kept, singular, 1.0) ** exponent, 0.0)


TFIDF_SVD = Encoder(TfidfSvdOptions, fit, "", apply=apply)


def text_embedding(catalog: Catalog, train: Sequences, seed: int) -> Matrix:
    """[items, d] of the items' text, as the encoder makes it by itself.

    Raises:
        DataError: no item has text.
    """
    encoded: Encoded = fit(catalog, train, TfidfSvdOptions(), seed)
    return encoded.embedding


def unit_text(catalog: Catalog, seed: int, dtype: type[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """The same with rows of length 1, or 0 without text; in half precision nothing larger is held on the way.

    Raises:
        DataError: no item has text.
    """
    parts = _read(catalog, TfidfSvdOptions(), seed)[0]
    vectors = _empty(parts, dtype)
    for rows in chunks(len(vectors), ROWS_AT_ONCE):
        vectors[rows] = unit_rows(_some_rows(parts, rows))
    return vectors
