"""From a catalogue and its training sequences to one vector an item.

An encoder is fitted once, when the SIDs are built, and can then encode items that came later without being fitted
again. What it learned is arrays (``model.safetensors``) and JSON (``sid.json``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.parts import Choice, Part, Table, resolve

Arrays = dict[str, NDArray[Any]]
Matrix = NDArray[np.float32]

ENCODERS: Table = {
    "tfidf-svd": "recrl.sids.encoders.tfidf_svd:TFIDF_SVD",
    "hf": "recrl.sids.encoders.hf:HF",
    "cooccurrence": "recrl.sids.encoders.cooccurrence:COOCCURRENCE",
    "fused": "recrl.sids.encoders.fused:FUSED",
}


@dataclass(frozen=True)
class Encoded:
    """What fitting an encoder gives.

    Attributes:
        embedding: [items, d] float32.
        arrays: what ``apply`` needs again.
        notes: what happened, for ``sid.json`` and the user: dims that shrank, items without text or interactions.
    """

    embedding: Matrix
    arrays: Arrays
    notes: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Encoder(Part):
    """``run(catalog, train, options, seed) -> Encoded``.

    Attributes:
        apply: ``(catalog, arrays, options) -> [items, d]`` for new items, which have text and no interactions. None
        where
            an item can't be encoded without interactions.
    """

    apply: Callable[..., Matrix] | None = None


def resolve_encoder(choice: Choice, *, where: str) -> tuple[Encoder, Any]:
    """The encoder and its checked options."""
    part, options = resolve(ENCODERS, choice, where=where)
    assert isinstance(part, Encoder), choice.kind
    return part, options


def unit_rows(matrix: NDArray[Any]) -> Matrix:
    """Rows of length 1; rows of zeros stay."""
    norm = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.where(norm > 0, norm, 1), np.float32)


def prefixed(prefix: str, arrays: Arrays) -> Arrays:
    """The arrays under names that begin with ``prefix.``."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def unprefixed(prefix: str, arrays: Arrays) -> Arrays:
    """The arrays whose names begin with ``prefix.``, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
