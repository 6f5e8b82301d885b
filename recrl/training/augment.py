"""Changes to training sequences, drawn anew every epoch.

Timestamps of rating data are days: the order inside a day is noise, and a small model learns it by heart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recrl.data.dataset import Sequences
from recrl.data.ragged import Ragged
from recrl.training_sections import AugmentSection


def augment(sequences: Sequences, options: AugmentSection, rng: np.random.Generator) -> Sequences:
    """Drop, crop, shuffle and reverse, in this order; sliding samples (``first_target`` > 1) stay as they are.

    A row never falls below two items, and items are only moved or left out within their own row.
    """
    if not (options.drop or options.crop or options.shuffle or options.reverse):
        return sequences
    items = sequences.items
    row = np.repeat(np.arange(len(items)), items.lengths)
    place = np.arange(len(items.values)) - items.offsets[row]
    free = (sequences.first_target == 1)[row]
    key = place.astype(np.float64)
    shuffled = (rng.random(len(items)) < options.shuffle)[row] & free
    key += np.where(shuffled, rng.random(len(key)) * options.shuffle_window, 0.0)
    backwards = (rng.random(len(items)) < options.reverse)[row] & free
    key = np.where(backwards, -key, key)
    keep = ~(free & (rng.random(len(key)) < options.drop)) & _inside_crop(items, place, row, free, options.crop, rng)
    left = np.bincount(row[keep], minlength=len(items))
    keep |= (left < 2)[row]
    order = np.lexsort((key, row))
    order = order[keep[order]]
    lengths = np.bincount(row[order], minlength=len(items))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(sequences.users, Ragged(items.values[order], offsets), sequences.first_target)


def _inside_crop(
    items: Ragged,
    place: NDArray[np.int64],
    row: NDArray[np.int64],
    free: NDArray[np.bool_],
    probability: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """[entries] bool: inside a window of at least two items where the row is cropped, everywhere else True."""
    lengths = items.lengths
    cropped = rng.random(len(items)) < probability
    size = np.where(cropped, 2 + (rng.random(len(items)) * np.maximum(lengths - 1, 1)).astype(np.int64), lengths)
    size = np.minimum(size, lengths)
    begin = (rng.random(len(items)) * (lengths - size + 1)).astype(np.int64)
    inside: NDArray[np.bool_] = (place >= begin[row]) & (place < (begin + size)[row])
    return np.logical_or(~free, inside)
