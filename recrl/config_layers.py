"""Nested values of TOML files, one laid on another."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from recrl.errors import ConfigError

CHANGES = 3
"""That a message names one by one."""


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file, unchecked."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no config at {path}", fix="`recrl config example` prints one") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder", fix="name the TOML file in it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML", why=str(error), fix="mend that line") from None


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` on ``below``, table by table. A part of another ``kind`` replaces the whole part; a kind that stands
    alone is one without options.
    """
    if "kind" in above and "kind" in below and above["kind"] != below["kind"]:
        return above
    merged = dict(below)
    for key, value in above.items():
        under = below.get(key)
        if isinstance(value, dict) and isinstance(under, str):
            under = {"kind": under}
        merged[key] = merge(under, value) if isinstance(value, dict) and isinstance(under, dict) else value
    return merged


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"rl.lr": 1e-5, ...}``: every key of nested values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def changes(before: dict[str, Any], after: dict[str, Any]) -> str:
    """``sft.lr was 0.1 and is 0.2``: where flat values differ, and how many more keys do."""
    keys = [key for key in before | after if before.get(key) != after.get(key)]
    said = [f"{key} was {_said(before, key)} and is {_said(after, key)}" for key in keys[:CHANGES]]
    return ", ".join(said) + (f", and {len(keys) - CHANGES} more keys differ" if len(keys) > CHANGES else "")


def _said(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "not there"


def read_on_base(name: str, read: Callable[[str], dict[str, Any]], what: str, *, own: Sequence[str]) -> dict[str, Any]:
    """The values of a file, on those of the one that it names as its ``base``.

    Args:
        read: a name's own values.
        what: the file is, for errors.
        own: keys that a file does not take from its base.

    Raises:
        ConfigError: bases form a circle.
    """
    above: list[str] = []
    layers: list[dict[str, Any]] = []
    while name:
        if name in above:
            circle = " -> ".join((*above, name))
            raise ConfigError(f"{what} {above[0]!r}", why=f"its bases form a circle: {circle}", fix="drop one base")
        values = read(name)
        layers.append({key: value for key, value in values.items() if not layers or key not in own})
        above.append(name)
        name = values.get("base", "")
        if not isinstance(name, str):
            raise ConfigError(f"{what} {above[-1]!r}: base = {name!r}", why="it is not text", fix="put it in quotes")
    return reduce(merge, reversed(layers))


def override(values: dict[str, Any], text: str) -> None:
    """Set what ``section.key=value`` says; the value is TOML, or a bare word."""
    key, separator, written = text.partition("=")
    steps = key.strip().split(".")
    if not separator or len(steps) < 2 or not all(steps):
        raise ConfigError(f"--set {text}", why="it is not section.key=value", fix="for example --set sft.lr=0.001")
    try:
        value = tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        value = written.strip()
    for step in steps[:-1]:
        inner = values.setdefault(step, {})
        if isinstance(inner, str):  # a part's kind that stands alone
            inner = values[step] = {"kind": inner}
        if not isinstance(inner, dict):
            raise ConfigError(
                f"--set {text}", why=f"{step} is a value, not a section", fix="`recrl config schema` lists the keys"
            )
        values = inner
    values[steps[-1]] = value
