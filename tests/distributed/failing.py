"""A recrl command whose second rank fails in its second RL step, while the first one waits for it."""

from __future__ import annotations

import sys

from recrl.commands.main import main
from recrl.processes import own_rank
from recrl.training.rl import Rl

update = Rl.update


def failing(rl: Rl, *given: object) -> dict[str, float]:
    if own_rank() == 1 and rl.at.step == 1:
        raise ArithmeticError("rank 1 can't go on")
    return update(rl, *given)  # type: ignore[arg-type]


Rl.update = failing  # type: ignore[assignment, method-assign]
main(sys.argv[1:])
