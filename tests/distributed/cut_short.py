"""A recrl command on every rank that ends after some RL steps, as if its time were up: STEPS COMMAND ..."""

from __future__ import annotations

import sys

from recrl.commands.main import run
from recrl.training.rl import Rl

steps = int(sys.argv[1])
step = Rl.step


def limited(rl: Rl) -> dict[str, float]:
    if rl.at.step == steps:
        sys.exit(0)
    return step(rl)


Rl.step = limited  # type: ignore[method-assign]
sys.argv[1:] = sys.argv[2:]
run()
