"""Recipes: the part of a config that names a method, in ``recipes/*.toml``.

Beside its sections a recipe says ``about`` (what it is, and what differs from its source), ``source`` (paper or code)
and, where it varies another one, ``base``: its own values lie on those of the base.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recrl.config_layers import flat, read_on_base, read_toml
from recrl.errors import ConfigError, nearest

FOLDER = Path(__file__).parent / "recipes"
WORDS = ("about", "source", "base")


@dataclass(frozen=True)
class Recipe:
    """One recipe.

    Attributes:
        origin: its file.
        base: name of the recipe that it varies, or empty.
        values: sections and keys, those of the base included.
    """

    name: str
    origin: str
    about: str
    source: str
    base: str
    values: dict[str, Any]


def names() -> list[str]:
    """Every recipe that comes with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def read(name: str) -> Recipe:
    """A recipe by its name, or by a path that ends in ``.toml``; its values are unchecked.

    Raises:
        ConfigError: there is no such recipe, or recipes that vary each other in a circle.
    """
    values = read_on_base(name, lambda one: read_toml(_file(one)), "recipe", own=WORDS)
    words = {word: values.pop(word, "") for word in WORDS}
    path = _file(name)
    for word, value in words.items():
        if not isinstance(value, str):
            raise ConfigError(f"{path}: {word} = {value!r}", why="it is not text", fix="put it in quotes")
    return Recipe(path.stem, str(path), " ".join(words["about"].split()), words["source"], words["base"], values)


def _file(name: str) -> Path:
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file() and name.endswith(".toml"):
        raise ConfigError(
            f"no recipe at {path}", why="there is no such file", fix="`recrl recipe list` shows the names"
        )
    if not path.is_file():
        raise ConfigError(f"rl.recipe = {name!r}", why="there is no such recipe", fix=nearest(name, names()))
    return path


def difference(left: Recipe, right: Recipe) -> list[tuple[str, Any, Any]]:
    """Keys in which two recipes differ, with both values; None where one leaves a key to the run."""
    first, second = flat(left.values), flat(right.values)
    keys = sorted(first.keys() | second.keys())
    return [(key, first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)]
