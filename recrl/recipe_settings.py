"""What a recipe sets: where it differs from the recipe that it varies, or from the defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from recrl.config import RunConfig
from recrl.config_help import table
from recrl.parts import Choice, resolve
from recrl.recipe import Recipe, read
from recrl.section import Section

Setting = tuple[str, Any, Any]
"""A key, its value and its default."""


def own_settings(recipe: Recipe) -> dict[str, Any]:
    """Keys whose value differs from that of the recipe's base, or from the default where the base has no such key.

    Tables of tasks, without those of weight 0, and the list of rewards count as one value each. Without a base, the
    kinds of the parts are left out: they are what the recipe is made of.
    """
    base = {key: value for key, value, _ in _settings(_config(read(recipe.base)))} if recipe.base else {}
    own = list(_settings(_config(recipe)))
    return {key: value for key, value, default in own if value != base.get(key, default)}


def _config(recipe: Recipe) -> RunConfig:
    return RunConfig.model_validate(recipe.values)


def _settings(section: BaseModel, prefix: str = "") -> Iterator[Setting]:
    """Every key of a config, those of the chosen parts' options among them."""
    for name, field in type(section).model_fields.items():
        key, value = f"{prefix}{name}", getattr(section, name)
        default = field.get_default(call_default_factory=True)
        if isinstance(value, Section):
            yield from _settings(value, f"{key}.")
        elif isinstance(value, Choice) and isinstance(section, Section):
            options = resolve(table(key), value, where=key)[1]
            yield f"{key}.kind", value.kind, value.kind
            yield from _settings(options, f"{key}.")
        elif name == "rewards":
            yield key, [_changed(one, key) for one in value], [{"kind": one.kind} for one in value]
        elif name == "tasks":
            yield key, {task: weight for task, weight in value.items() if weight}, default
        else:
            yield key, value, default


def _changed(choice: Choice, family: str) -> dict[str, Any]:
    """A part's kind, and those of its options that are not at their default."""
    options = resolve(table(family), choice, where=family)[1]
    return {"kind": choice.kind} | {key: value for key, value, default in _settings(options) if value != default}
