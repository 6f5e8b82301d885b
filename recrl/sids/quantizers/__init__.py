"""From vectors to codes: residual quantisers with one codebook a level.

Letters: N items, d dims of the embedding, e dims of the space that is quantised (d itself, or an autoencoder's inside),
L levels, K codes of a level.
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
Codes = NDArray[np.int32]

QUANTIZERS: Table = {
    "rq-kmeans": "recrl.sids.quantizers.rq_kmeans:RQ_KMEANS",
    "balanced": "recrl.sids.quantizers.balanced:BALANCED",
    "rq-vae": "recrl.sids.quantizers.rq_vae:RQ_VAE",
    "given": "recrl.sids.quantizers.given:GIVEN",
}


@dataclass(frozen=True)
class Quantized:
    """What fitting a quantiser gives.

    Attributes:
        codes: [N, L] int32.
        reconstruction: [N, d] what the codes say about the embedding.
        arrays: ``codebook.0``, ``codebook.1`` ... each [K, e], and what ``latent`` needs.
        notes: what happened, for ``sid.json``.
    """

    codes: Codes
    reconstruction: Matrix
    arrays: Arrays
    notes: dict[str, Any]


def same_space(points: Matrix, _arrays: Arrays) -> Matrix:
    """The embedding itself is quantised: e = d."""
    return points


@dataclass(frozen=True, kw_only=True)
class Quantizer(Part):
    """``run(points, sizes, options, seed) -> Quantized``; ``sizes`` are the wanted K, level by level, and K = N where N
    < K.

    Attributes:
        latent: ``(points [n, d], arrays) -> [n, e]``: what the codebooks quantise. None where there are no codebooks.
        from_catalog: ``run(catalog, options) -> (codes, sizes, notes)`` instead: the data brought its own SIDs.
    """

    latent: Callable[[Matrix, Arrays], Matrix] | None = same_space
    from_catalog: bool = False


def resolve_quantizer(choice: Choice, *, where: str) -> tuple[Quantizer, Any]:
    """The quantiser and its checked options."""
    part, options = resolve(QUANTIZERS, choice, where=where)
    assert isinstance(part, Quantizer), choice.kind
    return part, options
