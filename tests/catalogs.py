"""Catalogues without a file behind them."""

from __future__ import annotations

import numpy as np

from recrl.data.dataset import Catalog

WORDS = ("red", "wooden", "train", "puzzle", "castle", "doll", "robot", "garden", "kitchen", "space", "farm", "tower")


def nameless(count: int) -> Catalog:
    """Items of which nothing is known but their ids."""
    return Catalog([str(item) for item in range(count)], *([""] * count for _ in range(4)))


def titled(count: int, seed: int = 0) -> Catalog:
    """Items with titles of three random words."""
    rng = np.random.default_rng(seed)
    titles = [" ".join(rng.choice(WORDS, 3, replace=False)) for _ in range(count)]
    return Catalog([str(item) for item in range(count)], titles, *([""] * count for _ in range(3)))
