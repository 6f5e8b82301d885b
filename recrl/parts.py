"""Named parts (rewards, signals, objectives, encoders ...) and how a config picks one.

Each family keeps one table, ``{kind: "module:ATTRIBUTE"}``, in its package's ``__init__``; the module loads when its
kind is asked for. A newcomer writes one file and adds one line to the table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from recrl.errors import ConfigError, nearest

Table = Mapping[str, str]


class Options(BaseModel):
    """The options of one part: frozen, unknown keys refused, the docstring under a field is its help."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Choice(BaseModel):
    """A part as a config names it: its ``kind`` and, beside it, the options of that kind; or the kind alone."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        """A kind without options may stand alone, as in ``signal = "listwise"``."""
        if isinstance(value, str):
            return {"kind": value}
        if not isinstance(value, dict | Choice):
            raise ValueError('a part is its kind, as in "listwise" or {kind = "listwise"}')
        return value

    @property
    def given(self) -> dict[str, Any]:
        """The options beside ``kind``, as they were written."""
        return dict(self.model_extra or {})


@dataclass(frozen=True)
class Part:
    """One entry of a family: a function, the model of its options, and where it comes from."""

    options: type[Options]
    run: Callable[..., Any]
    source: str = ""
    refuses: Callable[[Any, Any], str] | None = None
    """``(own options, the rollout's options)`` -> why the two can't go together, empty where they can."""
    needs: Literal["", "targets", "feedback"] = ""
    """What RL's environment has to give for it: known targets, or answers to what is shown."""


def load_part(table: Table, kind: str, *, where: str) -> Part:
    """The part behind a kind; ``where`` names the config key for the error."""
    if kind not in table:
        raise ConfigError(f"{where}.kind = {kind!r}", why="there is no such kind", fix=nearest(kind, table))
    module, attribute = table[kind].split(":")
    part = getattr(importlib.import_module(module), attribute)
    assert isinstance(part, Part), table[kind]
    return part


def resolve(table: Table, choice: Choice, *, where: str) -> tuple[Part, Options]:
    """The part and its checked options."""
    part = load_part(table, choice.kind, where=where)
    try:
        return part, part.options.model_validate(choice.given)
    except ValidationError as error:
        problems = [(one, _place(part.options, one["loc"])) for one in error.errors()]
        first, place = problems[0]
        key = ".".join(map(str, (where, *place)))
        if first["type"] == "extra_forbidden":
            known = _known_options(part.options, place[:-1])
            why, fix = f"kind {choice.kind!r} has no such option", nearest(str(place[-1]), known)
        else:  # of a value that may be of several types, why it is none of them
            why = "; ".join(one["msg"] for one, at in problems if at == place)
            fix = f"`recrl config schema` lists the options of kind {choice.kind!r}"
        if first["type"] == "value_error":  # a rule of the part's own, between its options
            why = str(first["ctx"]["error"])
        raise ConfigError(f"{key} = {first['input']!r}", why=why, fix=fix) from None


def _place(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Where the options have the value: without the types that pydantic names behind a key that takes several."""
    field = model.model_fields.get(str(location[0])) if location else None
    if field is None or get_origin(field.annotation) in (Union, UnionType):
        return location[:1]
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        return (*location[:1], *_place(field.annotation, location[1:]))
    return location


def _known_options(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Keys of the options at a place within others."""
    for step in location:
        inner = model.model_fields[str(step)].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        model = inner
    return list(model.model_fields)
