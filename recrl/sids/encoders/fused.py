"""Text and co-occurrence side by side.

Text tells items apart and works for new ones; co-occurrence says what is bought together. An item that training never
pairs with another gets the co-occurrence part that its text predicts, by a ridge regression fitted on the other items,
so it lands near the items that it resembles instead of in a cluster of all items without a history.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recrl.data.dataset import Catalog, Sequences
from recrl.errors import ConfigError
from recrl.parts import Choice, Options
from recrl.sids.encoders import (
    Arrays,
    Encoded,
    Encoder,
    Matrix,
    prefixed,
    resolve_encoder,
    unit_rows,
    unprefixed,
)
from recrl.sids.encoders import cooccurrence as together
from recrl.sids.threads import one_thread


class FusedOptions(Options):
    text: Choice = Choice(kind="tfidf-svd")
    """The text encoder and its options."""
    cooccurrence: together.CooccurrenceOptions = together.CooccurrenceOptions()
    text_weight: float = Field(1.0, gt=0)
    """The text part is scaled to this times its own length (see ``unit_text``)."""
    cooccurrence_weight: float = Field(1.0, gt=0)
    """Length of the co-occurrence part."""
    unit_text: bool = False
    """Scale the text part to length 1 first. Off, tfidf-svd's blocks keep the weights that they were given."""
    text_whitening: float = Field(0.0, ge=0, le=1)
    """0 leaves the part alone, 1 gives every principal direction the same variance; between, a power of it."""
    cooccurrence_whitening: float = Field(0.0, ge=0, le=1)
    ridge: float = Field(1.0, gt=0)
    """Penalty of the regression from text to co-occurrence."""


def fit(catalog: Catalog, train: Sequences, options: FusedOptions, seed: int) -> Encoded:
    """[items, text d + co-occurrence d]; errors as the two encoders have them."""
    encoder, text_options = _text_encoder(options)
    text = encoder.run(catalog, train, text_options, seed)
    with one_thread():
        pairs = together.fit(catalog, train, options.cooccurrence, seed)
        return _fuse(text, pairs, options)


def _fuse(text: Encoded, pairs: Encoded, options: FusedOptions) -> Encoded:
    arrays = prefixed("text", text.arrays)
    known: NDArray[np.bool_] = np.any(pairs.embedding, axis=1)
    if options.text_whitening:
        arrays |= prefixed("text_whitening", _fit_whitening(text.embedding, options.text_whitening))
    behaviour = pairs.embedding
    if options.cooccurrence_whitening:
        learned = _fit_whitening(pairs.embedding[known], options.cooccurrence_whitening)
        behaviour = np.where(known[:, None], unit_rows(_whiten(behaviour, learned)), 0)
    text_part = _text_part(text.embedding, arrays, options)
    arrays |= prefixed("ridge", _fit_ridge(text_part[known], behaviour[known], options.ridge))
    behaviour = np.where(known[:, None], behaviour, _predict(text_part, arrays))
    notes = {"text": text.notes, "cooccurrence": pairs.notes, "cooccurrence_from_text": int((~known).sum())}
    return Encoded(_side_by_side(text_part, behaviour, options), arrays, notes)


def apply(catalog: Catalog, arrays: Arrays, options: FusedOptions) -> Matrix:
    """[items, d] for new items: their text, and the co-occurrence that it predicts."""
    encoder, text_options = _text_encoder(options)
    assert encoder.apply is not None
    text_part = _text_part(encoder.apply(catalog, unprefixed("text", arrays), text_options), arrays, options)
    return _side_by_side(text_part, _predict(text_part, arrays), options)


def _text_encoder(options: FusedOptions) -> tuple[Encoder, Options]:
    if options.text.kind not in ("tfidf-svd", "hf"):
        raise ConfigError(
            f"sid.encoder.text.kind = {options.text.kind!r}", why="it is no text encoder", fix="use 'tfidf-svd' or 'hf'"
        )
    return resolve_encoder(options.text, where="sid.encoder.text")


def _side_by_side(text: Matrix, behaviour: Matrix, options: FusedOptions) -> Matrix:
    parts = (options.text_weight * text, options.cooccurrence_weight * behaviour)
    return np.ascontiguousarray(np.hstack(parts), np.float32)


def _text_part(text: Matrix, arrays: Arrays, options: FusedOptions) -> Matrix:
    if options.text_whitening:
        return unit_rows(_whiten(text, unprefixed("text_whitening", arrays)))
    return unit_rows(text) if options.unit_text else text


def _fit_whitening(matrix: Matrix, power: float) -> Arrays:
    """PCA whitening: a principal direction of variance v has v ** (1 - power) in ``(x - mean) @ matrix``."""
    mean = matrix.mean(axis=0, dtype=np.float64)
    centred = matrix - mean
    variance, directions = np.linalg.eigh(centred.T @ centred / len(matrix))
    kept = variance > 1e-7 * max(variance[-1], 1e-30)
    scale = np.where(kept, np.where(kept, variance, 1.0) ** (-power / 2), 0.0)
    return {"mean": mean.astype(np.float32), "matrix": (directions * scale)[:, ::-1].astype(np.float32)}


def _whiten(matrix: Matrix, learned: Arrays) -> Matrix:
    return np.asarray((matrix - learned["mean"]) @ learned["matrix"], np.float32)


def _fit_ridge(text: Matrix, behaviour: Matrix, penalty: float) -> Arrays:
    """Least squares with an unpenalised intercept: behaviour ~ (text - text mean) @ weight + behaviour mean."""
    text_mean, behaviour_mean = text.mean(axis=0, dtype=np.float64), behaviour.mean(axis=0, dtype=np.float64)
    centred = text - text_mean
    gram = centred.T @ centred + penalty * np.eye(text.shape[1])
    weight = np.linalg.solve(gram, centred.T @ (behaviour - behaviour_mean))
    learned = {"text_mean": text_mean, "behaviour_mean": behaviour_mean, "weight": weight}
    return {name: array.astype(np.float32) for name, array in learned.items()}


def _predict(text: Matrix, arrays: Arrays) -> Matrix:
    """Unit rows, as long as those of items that have a co-occurrence part of their own."""
    learned = unprefixed("ridge", arrays)
    return unit_rows((text - learned["text_mean"]) @ learned["weight"] + learned["behaviour_mean"])


FUSED = Encoder(FusedOptions, fit, "", apply=apply)
