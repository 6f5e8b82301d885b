"""What a comparison runs: every recipe with every seed, from one start, under one budget of responses.

CONFIG says everything that does not belong to a method: data, SIDs, prompts, learning rate, prompts a step. What makes
a method comes from the recipe alone, and ``--set`` lies on both. A run's seed draws RL's prompts, targets and
responses; ``run.seed`` stays, so that all runs are validated on the same examples. No run stops early: each spends its
budget.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from recrl import config as configs
from recrl import recipe as recipes
from recrl.config import RunConfig
from recrl.config_layers import flat, merge, override, read_toml
from recrl.errors import ConfigError, UserError
from recrl.method import Method
from recrl.parts import resolve
from recrl.recipe import Recipe
from recrl.rollout import ROLLOUTS
from recrl.rollout.base import RolloutOptions
from recrl.store import checkpoint

OF_THE_METHOD = (
    "recipe",
    "tasks",
    "epochs",
    "mini_batches",
    "max_gen_batches",
    "rollout",
    "rewards",
    "signal",
    "objective",
)
"""Keys of ``[rl]`` that a recipe decides, whatever CONFIG says."""
LEARNED = ("hidden_size", "lr")
"""Keys of ``[memory]`` that a recipe decides where CONFIG says nothing: what RL learns of it."""
OF_THE_PLAN = {
    "rl.recipe": "--recipes",
    "rl.seed": "--seeds",
    "rl.steps": "--responses",
    "rl.max_rollouts": "--responses",
    "rl.eval_every": "--validations",
    "run.dir": "--out",
    "run.name": "--out",
}
"""Keys that follow from the plan, and the option that says each."""
WITHOUT_STOPPING = {"patience": 0, "max_ndcg_drop": 1.0}
K = 10
"""Length of the lists that are compared."""


@dataclass(frozen=True)
class Asked:
    """What the caller wants compared.

    Attributes:
        config: the TOML file; ``overrides`` are ``section.key=value``.
        recipes: names, or paths that end in .toml.
        seeds: runs of each.
        responses: that each run generates.
        validations: of each run, besides that of the start.
        split: ``valid`` or ``test``, what the best checkpoints are evaluated on.
        init: a Hugging Face folder to start from; None: CONFIG's ``rl.init``, or the best checkpoint of its SFT.
        out: the folder; None: ``methods`` below the folder of CONFIG's run.
    """

    config: Path
    overrides: tuple[str, ...]
    recipes: tuple[str, ...]
    seeds: int
    responses: int
    validations: int
    split: str
    init: Path | None
    out: Path | None


@dataclass(frozen=True)
class PlannedRun:
    """One recipe with one seed, an ordinary RL run.

    Attributes:
        rollouts: that spend the budget. As many as steps, but for dynamic sampling, whose steps take several.
        responses: of them.
    """

    recipe: str
    seed: int
    config: RunConfig
    group_size: int
    rollouts: int
    responses: int

    @property
    def name(self) -> str:
        return self.config.run.name

    @property
    def optimizer_steps(self) -> int:
        """At most, since a step without an active row takes none."""
        return self.rollouts * self.config.rl.epochs * self.config.rl.mini_batches


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Attributes:
        start: the Hugging Face folder that every run starts from.
        base: CONFIG without a method; the start is evaluated as it says.
        left_out: keys of CONFIG that the recipes decide.
        command: that compares the same again.
    """

    folder: Path
    start: Path
    base: RunConfig
    split: str
    responses: int
    runs: list[PlannedRun]
    left_out: list[str]
    command: str

    @property
    def recipes(self) -> list[str]:
        return list(dict.fromkeys(run.recipe for run in self.runs))

    @property
    def seeds(self) -> int:
        return len({run.seed for run in self.runs})


def make_plan(asked: Asked) -> Plan:
    """Layer and check every run's config; nothing is written.

    Raises:
        ConfigError: a recipe, a key, a budget or an option can't be.
        UserError: there is no SFT to start from.
    """
    _check_overrides(asked.overrides)
    chosen = _read_recipes(asked.recipes)
    below, left_out = _without_method(asked.config)
    base = _layered(below, asked.overrides, str(asked.config))
    if K not in base.eval.k:
        raise ConfigError(f"eval.k = {list(base.eval.k)}", why=f"lists of {K} are compared", fix=f"add {K} to it")
    start = _start(asked.init or base.rl.init, base)
    folder = asked.out or base.folder / "methods"
    methods = [_method(name, recipe, below, base, asked) for name, recipe in chosen]
    # Seed by seed, so that a comparison that is cut short holds every recipe.
    runs = [_run(*method, seed, asked, start, folder) for seed in range(asked.seeds) for method in methods]
    return Plan(folder, start, base, asked.split, asked.responses, runs, left_out, _command(asked, folder))


def _command(asked: Asked, folder: Path) -> str:
    """The command that compares the same again."""
    words = ["recrl", "bench", "methods", str(asked.config), "--recipes", ",".join(asked.recipes)]
    words += ["--seeds", str(asked.seeds), "--responses", str(asked.responses)]
    words += ["--validations", str(asked.validations), "--split", asked.split, "--out", str(folder)]
    words += ["--init", str(asked.init)] if asked.init else []
    return shlex.join([*words, *(word for text in asked.overrides for word in ("--set", text))])


def _check_overrides(overrides: tuple[str, ...]) -> None:
    for text in overrides:
        key = text.partition("=")[0].strip()
        if key in OF_THE_PLAN:
            raise ConfigError(
                f"--set {text}", why="the plan sets this key for every run", fix=f"use {OF_THE_PLAN[key]}"
            )


def _read_recipes(names: Sequence[str]) -> list[tuple[str, Recipe]]:
    """The recipes, each behind the words that ask for it."""
    found = [(name, recipes.read(name)) for name in names]
    called = [recipe.name for _, recipe in found]
    for _, recipe in found:
        if called.count(recipe.name) > 1:
            raise ConfigError(
                f"--recipes names {recipe.name!r} twice", why="both would share their runs' folders", fix="drop one"
            )
        configs.check(recipe.values, recipe.origin)
    return found


def _without_method(path: Path) -> tuple[dict[str, Any], list[str]]:
    """CONFIG's values, those of its recipe's other sections below them, and the keys of ``[rl]`` that were left out."""
    user = read_toml(path)
    rl = user.get("rl", {})
    if not isinstance(rl, dict):
        return user, []  # the check has the words for it
    other: dict[str, Any] = {}
    if isinstance(rl.get("recipe"), str):
        other = {name: values for name, values in configs.read_recipe(rl["recipe"]).items() if name != "rl"}
    kept = {key: value for key, value in rl.items() if key not in OF_THE_METHOD}
    return merge(other, user | {"rl": kept}), [f"rl.{key}" for key in rl if key in OF_THE_METHOD]


def _layered(values: dict[str, Any], overrides: Sequence[str], source: str) -> RunConfig:
    values = deepcopy(values)  # overrides are written into it
    for text in overrides:
        override(values, text)
    return configs.check(values, source)


def _start(init: Path | None, base: RunConfig) -> Path:
    if init is None:
        if base.rl.start == "base":
            raise ConfigError(
                'rl.start = "base"', why="a comparison has one trained start", fix="leave it out, or pass --init FOLDER"
            )
        return checkpoint.best(base.folder / "sft").model
    if not (init / "config.json").is_file():
        raise UserError(f"no model at {init}", why="it holds no config.json", fix="name a Hugging Face folder")
    return init


def _method(
    name: str, recipe: Recipe, below: dict[str, Any], base: RunConfig, asked: Asked
) -> tuple[str, RunConfig, int]:
    """A recipe's name, its config but for what the plan sets, and its group size."""
    learned = {key: value for key, value in recipe.values.get("memory", {}).items() if key in LEARNED}
    values = merge({"memory": learned}, below) if learned else below
    values = merge(values, {"rl": WITHOUT_STOPPING | recipe.values.get("rl", {}) | {"recipe": name}})
    _check_shared(recipe, base)
    config = _layered(values, asked.overrides, recipe.origin)
    if config.asks_for_slates != base.asks_for_slates:
        raise ConfigError(
            f"recipe {recipe.name} asks for slates",
            why="the start was not trained on them, so its lists would be built in another way",
            fix="give sft.tasks.slate a weight in CONFIG and train the SFT so, or leave the recipe out",
        )
    Method.make(config.rl)
    _, options = resolve(ROLLOUTS, config.rl.rollout, where="rl.rollout")
    return recipe.name, config, cast("RolloutOptions", options).group_size


def _run(
    recipe: str, config: RunConfig, group_size: int, seed: int, asked: Asked, start: Path, folder: Path
) -> PlannedRun:
    """One run, with as many rollouts as the budget holds."""
    prompts = config.rl.prompts_per_step
    rollouts = asked.responses // (prompts * group_size)
    if not rollouts:
        raise ConfigError(
            f"--responses {asked.responses}",
            why=f"one rollout of {recipe} takes {prompts} prompts x {group_size} responses",
            fix=f"allow {prompts * group_size} or more, or lower rl.prompts_per_step",
        )
    budget = {
        "init": start,
        "seed": seed,
        "steps": rollouts,
        "max_rollouts": rollouts if config.rl.max_gen_batches > 1 else None,
        "eval_every": math.ceil(rollouts / asked.validations),
    }
    place = {"dir": folder, "name": f"{recipe}-seed{seed}"}
    own = {"run": config.run.model_copy(update=place), "rl": config.rl.model_copy(update=budget)}
    return PlannedRun(
        recipe, seed, config.model_copy(update=own), group_size, rollouts, rollouts * prompts * group_size
    )


def _check_shared(recipe: Recipe, base: RunConfig) -> None:
    """Refuse a recipe that needs other prompts than the start was trained for.

    Its ``sft.tasks`` are passed over: here every recipe goes on from the same SFT. So is the memory's learned
    part, which starts at 0: a start is the same with it and without.
    """
    found = flat(base.model_dump(mode="json"))
    wanted = flat(configs.check(recipe.values, recipe.origin).model_dump(mode="json"))
    asked = flat({name: keys for name, keys in recipe.values.items() if name not in ("rl", "sft")})
    for key in (one for one in wanted if any(f"{one}.".startswith(f"{other}.") for other in asked)):
        section, _, rest = key.partition(".")
        train = "" if section == "memory" else " and train the SFT so"
        if found.get(key) != wanted[key] and not (section == "memory" and rest in LEARNED):
            raise ConfigError(
                f"recipe {recipe.name} needs {key} = {wanted[key]!r}",
                why=f"{key} is {found.get(key)!r} here, and what is compared shares its prompts and its start",
                fix=f"set it in CONFIG{train}, or leave the recipe out",
            )
