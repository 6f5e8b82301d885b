"""From what a memory recalled to log-weights of items.

    log w = weight * (log(share + floor) + learned(features))      recalled items
    log w = weight * log(floor)                                    all others

``learned`` is a small network whose last layer starts at 0: at first the memory alone speaks, and RL trains what it
does not know, such as when the text is to be believed more than the counts. It stands beside the logarithm of the
share, so that it is as quick to learn whatever the weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recrl.memory.recalled import Recalled


@dataclass(frozen=True)
class HeadShape:
    """What a head is made from.

    Attributes:
        weight: exponent of the scorer's shares, b.
        floor: added to every share.
        features: F.
        hidden_size: width of the learned part; 0 leaves it out.
    """

    weight: float
    floor: float
    features: int
    hidden_size: int


class MemoryHead(nn.Module):
    """See the module; ``seed`` draws the first layer."""

    def __init__(self, shape: HeadShape, seed: int) -> None:
        super().__init__()
        self.shape = shape
        self.learned: nn.Sequential | None = None
        if shape.hidden_size:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                first, last = nn.Linear(shape.features, shape.hidden_size), nn.Linear(shape.hidden_size, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.learned = nn.Sequential(first, nn.SiLU(), last)

    def forward(self, recalled: Recalled) -> Tensor:
        """[B, M] float32: log-weights above those of items that are not recalled; 0 after the last item."""
        shape = self.shape
        above = torch.log(recalled.share + shape.floor) - math.log(shape.floor)
        if self.learned is not None:
            above = above + self.learned(recalled.features).squeeze(-1).float()
        return torch.where(recalled.items >= 0, shape.weight * above, 0.0)
