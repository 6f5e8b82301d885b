"""What every reward's options have."""

from __future__ import annotations

from recrl.components import Options


class RewardOptions(Options):
    weight: float = 1.0
    """Its weight where the signal combines several rewards."""
