"""Random numbers that depend on where they are used and on nothing before: what makes a resumed run the same run."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(seed: int, *place: str | int) -> int:
    """A 63-bit seed for one place of a run, such as ``seed_of(0, "sft", "dropout", step)``."""
    text = "/".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *place: str | int) -> np.random.Generator:
    """A numpy generator for one place of a run."""
    return np.random.default_rng(seed_of(seed, *place))
