"""A catalogue of 60 items in six themes, and users who stay within a theme."""

from __future__ import annotations

import numpy as np
import pytest

from recrl.data.dataset import Catalog, Dataset, Examples, Sequences
from recrl.data.ragged import Ragged

THEMES = ("castle", "train", "puzzle", "robot", "doll", "kite")


@pytest.fixture
def catalog() -> Catalog:
    rng = np.random.default_rng(0)
    words = ("red", "blue", "large", "small", "wooden", "classic", "deluxe", "mini", "magic", "travel")
    titles = [f"{theme} {words[n]} {words[int(rng.integers(10))]}" for theme in THEMES for n in range(10)]
    categories = [theme.title() + "s & More" for theme in THEMES for _ in range(10)]
    ids = [f"item-{row}" for row in range(60)]
    return Catalog(ids, titles, [""] * 60, [""] * 60, categories)


@pytest.fixture
def train() -> Sequences:
    """80 users; the last two items of every theme are never interacted with."""
    rng = np.random.default_rng(1)
    rows = [list(10 * (user % 6) + rng.permutation(8)[:5]) for user in range(80)]
    return Sequences(np.arange(80, dtype=np.int32), Ragged.from_lists(rows), np.ones(80, np.int32))


@pytest.fixture
def dataset(catalog: Catalog, train: Sequences) -> Dataset:
    return Dataset(catalog, [str(user) for user in range(80)], train, *(Examples.empty() for _ in range(3)), {})
