"""What a config can say: every key with its type, default, bounds and help, and an example to start from."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from recrl.config import RunConfig
from recrl.parts import Choice, Options, Part, Table, load_part
from recrl.section import Section

EXAMPLE = Path(__file__).parent / "example.toml"

FAMILIES = {
    "data": "recrl.data.readers:READERS",
    "sid.encoder": "recrl.sids.encoders:ENCODERS",
    "sid.quantizer": "recrl.sids.quantizers:QUANTIZERS",
    "sft.teacher.scorer": "recrl.baselines:BASELINES",
    "rl.environment": "recrl.environments:ENVIRONMENTS",
    "rl.rollout": "recrl.rollout:ROLLOUTS",
    "rl.rewards": "recrl.rewards:REWARDS",
    "prompts.retriever": "recrl.baselines:BASELINES",
    "memory.scorer": "recrl.baselines:RECALLERS",
    "rl.signal": "recrl.signals:SIGNALS",
    "rl.objective": "recrl.objectives:OBJECTIVES",
}
"""Config key -> the table of the parts that it may name; "data" are the formats and -O options of ``recrl data``."""

BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
TYPE_NAMES = {Path: "path", str: "text", Choice: "part"}


@dataclass(frozen=True)
class KeyHelp:
    """One key: ``default`` is as TOML writes it, ``bounds`` and ``help`` may be empty."""

    key: str
    type: str
    default: str
    bounds: str
    help: str


@dataclass(frozen=True)
class PartHelp:
    """One kind of a family, and the options beside ``kind``."""

    kind: str
    source: str
    summary: str
    options: list[KeyHelp]


def example() -> str:
    """A commented TOML file that loads, and runs on the embedded data."""
    return EXAMPLE.read_text(encoding="utf-8")


def section_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[KeyHelp]:
    """Every key of a config or of a part's options, sections within sections spelt out."""
    keys = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section | Options):
            keys += section_keys(inner, f"{prefix}{name}.")
        else:
            keys.append(_key(f"{prefix}{name}", field))
    return keys


def part_help(family: str) -> list[PartHelp]:
    """Every kind of a family of ``FAMILIES``; loads the parts' modules."""
    kinds = table(family)
    return [_part(kinds, kind, family) for kind in kinds]


def json_schema() -> dict[str, Any]:
    """JSON schema of ``RunConfig``, and of the options of every kind of every family."""
    tables = {family: table(family) for family in FAMILIES}
    parts = {
        family: {kind: load_part(kinds, kind, where=family).options.model_json_schema() for kind in kinds}
        for family, kinds in tables.items()
    }
    return {"config": RunConfig.model_json_schema(), "parts": parts}


def table(family: str) -> Table:
    """The kinds of a family of ``FAMILIES``."""
    module, attribute = FAMILIES[family].split(":")
    found: Table = getattr(importlib.import_module(module), attribute)
    return found


def as_toml(value: Any) -> str:
    """A value as TOML writes it, a table on one line; a key without a value is "not set"."""
    if value is None:
        return "not set"
    if isinstance(value, BaseModel):
        return as_toml(value.model_dump(exclude_unset=True))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {as_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(as_toml(inner) for inner in value) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _part(table: Table, kind: str, family: str) -> PartHelp:
    part: Part = load_part(table, kind, where=family)
    words = (importlib.import_module(table[kind].split(":")[0]).__doc__ or "").strip()
    return PartHelp(kind, part.source, " ".join(words.split("\n\n")[0].split()), section_keys(part.options))


def _key(name: str, field: FieldInfo) -> KeyHelp:
    help_text = " ".join((field.description or "").split()).replace("``", "`")
    return KeyHelp(name, _type_name(field.annotation), _default(field), _bounds(field), help_text)


def _type_name(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(json.dumps(value) for value in inner)
    if origin in (Union, UnionType):
        return " | ".join(_type_name(one) for one in inner if one is not NoneType)
    if origin is Annotated:
        return _type_name(inner[0])
    if origin is dict:
        return f"table of {_type_name(inner[1])}"
    if origin is list or (origin is tuple and Ellipsis in inner):
        return f"list of {_type_name(inner[0])}"
    if origin is tuple:
        return f"[{', '.join(_type_name(one) for one in inner)}]"
    return TYPE_NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return as_toml(field.get_default(call_default_factory=True))


def _bounds(field: FieldInfo) -> str:
    found = [f"{sign} {getattr(rule, name)}" for rule in field.metadata for name, sign in BOUNDS if hasattr(rule, name)]
    for rule in field.metadata:
        if getattr(rule, "min_length", None) is not None:
            found.append(f"at least {rule.min_length}")
        if getattr(rule, "pattern", None) is not None:
            found.append(f"like {rule.pattern}")
    return ", ".join(found)
