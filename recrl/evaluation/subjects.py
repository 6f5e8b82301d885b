"""What is evaluated: from the paths that a user names to models, and the configs that they are measured with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recrl import config as configs
from recrl.config import RunConfig
from recrl.errors import UserError
from recrl.processes import started_together
from recrl.store import checkpoint

STAGES = ("sft", "rl")
OF_THE_PROTOCOL = ("exclude_history", "k", "cold_fraction", "cold_denominator")
"""Keys of ``[eval]`` that say what is measured, and not how a model makes its lists."""

LONGEST = 100
"""Letters of a folder's name that overrides make."""


@dataclass(frozen=True)
class Subject:
    """A model to evaluate: what the table calls it, its Hugging Face folder, and the config of its run."""

    name: str
    model: Path
    config: RunConfig


def subjects(path: Path, overrides: tuple[str, ...] = ()) -> list[Subject]:
    """The models that a path names: a run (its best SFT and RL), a stage (its best), or one checkpoint.

    A run's SFT that trained without a memory stands beside the memory of the RL that began from it: only so it is RL's
    start.

    Args:
        overrides: ``section.key=value`` each, over what the runs were trained with.

    Raises:
        UserError: it names none.
    """
    if (path / "model" / "config.json").is_file():
        stage = path.resolve().parent.parent
        return [_subject(stage, checkpoint.read(path), f"{stage.name}-{path.resolve().name}", overrides)]
    if (path / "checkpoints").is_dir():
        return [_subject(path, checkpoint.best(path), path.resolve().name, overrides)]
    stages = [stage for stage in STAGES if (path / stage / "checkpoints").is_dir()]
    if not stages:
        raise UserError(
            f"nothing to evaluate at {path}",
            why="it is no run, stage or checkpoint folder",
            fix="name a folder such as runs/NAME, runs/NAME/sft or runs/NAME/rl/checkpoints/step-000100",
        )
    return [_subject(path / stage, checkpoint.best(path / stage), stage, overrides) for stage in stages]


def _subject(stage: Path, found: checkpoint.Checkpoint, name: str, overrides: tuple[str, ...]) -> Subject:
    config = configs.load(stage / "config.toml", overrides)
    beside = stage.resolve().parent / "rl" / "config.toml"
    if name == "sft" and beside.is_file():
        config = _as_start(config, configs.load(beside, overrides))
    return Subject(name, found.model, _as_here(config))


def _as_here(config: RunConfig) -> RunConfig:
    """The config on the processes that are here: those that training shared one model out over need not be."""
    processes = started_together()
    if processes > 1 and processes % config.backend.tensor_parallel == 0:
        return config
    backend = config.backend.model_copy(update={"engine": "torch", "tensor_parallel": 1})
    return config.model_copy(update={"backend": backend})


def _as_start(sft: RunConfig, rl: RunConfig) -> RunConfig:
    """The SFT's config, with the memory that RL began beside, where it began from this SFT."""
    began_here = rl.rl.init is None and rl.rl.start == "sft"
    if not began_here or sft.memory.weight or not rl.memory.weight:
        return sft
    return sft.model_copy(update={"memory": rl.memory})


def run_folder(path: Path) -> Path:
    """The folder of the run that a path belongs to, where it lies now and whatever its config calls it."""
    path = path.resolve()
    if (path / "model" / "config.json").is_file():
        path = path.parent.parent
    return path.parent if path.name in STAGES and (path / "checkpoints").is_dir() else path


def folder_of(overrides: tuple[str, ...]) -> str:
    """The name of a folder for what is measured under overrides; empty without any."""
    name = _in_a_name("_".join(overrides)) if overrides else ""
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def side_by_side(paths: Sequence[Path], overrides: tuple[str, ...]) -> list[Subject]:
    """The models of several paths, each under a name of its own and all on one data set and under one protocol.

    Those of another run than the first path's bear its name before their own. A model that is named twice counts once.

    Raises:
        UserError: a path names nothing, two would have one name, or they can't be compared.
    """
    home = run_folder(paths[0])
    by_model: dict[tuple[str, Path], Subject] = {}
    for path in paths:
        run = run_folder(path)
        own = "" if run == home else f"{_in_a_name(run.name)}-"
        named = [replace(one, name=f"{own}{one.name}") for one in subjects(path, overrides)]
        for one in named:
            by_model.setdefault((one.name, one.model.resolve()), one)
    found = list(by_model.values())
    _check_names(found)
    for subject in found[1:]:
        _check_comparable(found[0], subject)
    return found


def _in_a_name(folder: str) -> str:
    """A folder's name as part of a result's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder).lstrip("._-") or "run"


def _check_names(found: Sequence[Subject]) -> None:
    called = [subject.name for subject in found]
    if doubles := sorted({name for name in called if called.count(name) > 1}):
        raise UserError(
            f"two models would be called {doubles[0]}",
            why="results are kept by the names of run and stage, and one would replace the other's",
            fix="evaluate them in separate calls",
        )


def _check_comparable(first: Subject, other: Subject) -> None:
    """A table compares like with like."""
    if other.config.data.path.resolve() != first.config.data.path.resolve():
        raise UserError(
            f"{other.model.parent} was trained on {other.config.data.path}",
            why=f"the others were on {first.config.data.path}, and a table compares like with like",
            fix="evaluate them in separate calls",
        )
    for key in OF_THE_PROTOCOL:
        own, others = (getattr(one.config.eval, key) for one in (other, first))
        if own != others:
            raise UserError(
                f"{other.model.parent} has eval.{key} = {_as_toml(own)}",
                why=f"{first.model.parent} has {_as_toml(others)}, and a table compares like with like",
                fix=f"say one for all, such as --set eval.{key}={_as_toml(others)}",
            )


def _as_toml(value: object) -> str:
    return str(list(value) if isinstance(value, tuple) else value).lower()
