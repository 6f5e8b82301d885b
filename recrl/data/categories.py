"""Category names as numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def category_codes(categories: Sequence[str]) -> NDArray[np.int32]:
    """[N] category names -> [N] codes from 0 in alphabetical order; -1 for ``""``, a category that is not known."""
    code = {name: place for place, name in enumerate(sorted(set(categories) - {""}))}
    return np.array([code.get(name, -1) for name in categories], np.int32)
