"""What tests of comparisons ask for: two recipes with two seeds, four rollouts of 8 prompts x 4 responses each."""

from __future__ import annotations

from pathlib import Path

from recrl.comparison.plan import Asked

RECIPES = ("recast", "dr_grpo")
OVERRIDES = ("rl.prompts_per_step=8", "rl.rollout.group_size=4", "rl.lr=0.003")


def asked(config: Path, out: Path | None = None, **changes: object) -> Asked:
    """As Python calls it."""
    values: dict[str, object] = {
        "overrides": OVERRIDES,
        "recipes": RECIPES,
        "seeds": 2,
        "responses": 128,
        "validations": 2,
        "split": "test",
        "init": None,
    }
    return Asked(config=config, out=out, **(values | changes))  # type: ignore[arg-type]


def words(config: Path, out: Path, *more: str, **changes: str) -> list[str]:
    """The same on the command line."""
    options = {"recipes": ",".join(RECIPES), "seeds": "2", "responses": "128", "validations": "2", "out": str(out)}
    line = ["bench", "methods", str(config)]
    for name, value in (options | changes).items():
        line += [f"--{name}", value]
    for text in OVERRIDES:
        line += ["--set", text]
    return [*line, *more]
