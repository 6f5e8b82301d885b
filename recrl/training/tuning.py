"""Weight and floor of a memory, chosen on validation for the model that RL would start from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from recrl.atomic import write_text
from recrl.config import RunConfig
from recrl.errors import UserError
from recrl.training.rl import starting_point
from recrl.training.validation import Validation

FILE = "memory_tuning.json"
"""Where a run's folder keeps what was measured."""


@dataclass(frozen=True)
class Tried:
    """One setting of ``[memory]`` and what validation says of it; weight 0 is the model as it is without a memory."""

    weight: float
    floor: float
    hr_at_10: float
    ndcg_at_10: float


def tune_memory(
    config: RunConfig, weights: Sequence[float], floors: Sequence[float], say: Callable[[str], None]
) -> list[Tried]:
    """Validation under every weight and floor, kept in the run's folder.

    Args:
        say: told of every setting as it is measured.

    Raises:
        UserError: no weight is above 0, or the model is not there.
    """
    if not any(weight > 0 for weight in weights):
        raise UserError("no weight above 0", why="a memory of weight 0 says nothing", fix="give one, such as 4")
    memory = config.memory.model_copy(update={"weight": max(weights)})
    config = config.model_copy(update={"memory": memory})
    world, policy = starting_point(config)
    head = policy.memory
    assert head is not None  # its weight is above 0
    validation = Validation.make(config, world)
    found = []
    for weight, floor in settings(weights, floors):
        head.shape = replace(head.shape, weight=weight, floor=floor)
        policy.memory = head if weight else None
        values = validation.score(policy)
        found.append(Tried(weight, floor, values["valid/hr@10"], values["valid/ndcg@10"]))
        say(f"weight {weight:g}, floor {floor:g}: NDCG@10 {found[-1].ndcg_at_10:.4f}")
    if world.ranks.is_first:
        keep(config.folder / FILE, found)
    return found


def settings(weights: Sequence[float], floors: Sequence[float]) -> list[tuple[float, float]]:
    """Every weight with every floor; without a memory there is no floor, and one has to do."""
    return [(weight, floor) for weight in weights for floor in (floors if weight else floors[:1])]


def best(found: Sequence[Tried]) -> Tried:
    """The highest NDCG@10; of equal ones the first."""
    return max(found, key=lambda one: one.ndcg_at_10)


def keep(path: Path, found: Sequence[Tried]) -> None:
    """Write every setting with what it reached, the best one by name."""
    content = {"best": asdict(best(found)), "tried": [asdict(one) for one in found]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"can't write {path}", why=error.strerror or str(error), fix="choose another runs") from None
