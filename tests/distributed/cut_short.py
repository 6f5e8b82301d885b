"""A recrl command on every rank that ends after some RL steps, as if its time were up: STEPS COMMAND ..."""

from __future__ import annotations

import sys

from recrl.commands.main import main
from recrl.training.rl import Rl

steps = int(sys.argv[1])
step = Rl.step


def limited(rl: Rl) -> dict[str, float]:
    if rl.at.step == steps:
        sys.exit(0)
    return step(rl)


Rl.step = limited  # type: ignore[method-assign]
main(sys.argv[2:])
