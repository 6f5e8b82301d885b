"""What a signal sees besides groups and rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from recrl.kernels.ops import Ops
from recrl.sids.trie import Trie


@dataclass(frozen=True)
class SignalContext:
    """The surroundings of one step.

    Attributes:
        ops: the kernels of the run.
        trie: the legal responses, to build one from an item.
        seed: of this step's random numbers.
        state: what the signal returned at the step before; empty at the first.
    """

    ops: Ops
    trie: Trie
    seed: int = 0
    state: Mapping[str, float] = field(default_factory=dict)
