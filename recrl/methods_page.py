"""The page of methods: every recipe with its formula, source and switches, from recipe files and docstrings.

python -m recrl.methods_page [FILE]    # default: docs/methods.md; --check fails where the file is out of date
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from recrl import recipe as recipes
from recrl.config_help import KeyHelp, section_keys
from recrl.config_help import table as table_of
from recrl.config_layers import flat
from recrl.generated_page import write_page
from recrl.parts import Part, load_part
from recrl.recipe import Recipe

FAMILIES = {
    "rl.environment": "Environments",
    "rl.rollout": "Rollouts",
    "rl.rewards": "Rewards",
    "rl.signal": "Signals",
    "rl.objective": "Objectives",
}
OPENING = """\
# Methods

Written by `python -m recrl.methods_page` from the recipe files and the docstrings of the code; the suite fails where
this page is out of date. `papers.md B-3` is a section of [that page](papers.md): formulas and their readings.

A method is a recipe: rollout, rewards, signal, objective, tasks and schedule. `recrl rl CONFIG --recipe NAME` trains
with one, `recrl recipe show NAME` prints it, `recrl recipe diff A B` compares two. Any objective goes with any signal
and rollout, or is refused before the run starts, with the reason. To add a part: one file beside the others, one line
in its family's table; to add a recipe: one file in `recrl/recipes/`.
"""


def page() -> str:
    """The whole page."""
    found = [recipes.read(name) for name in recipes.names()]
    parts = ["## Recipes\n\n" + _overview(found), *(_recipe(one) for one in found)]
    for family, title in FAMILIES.items():
        parts.append(f"## {title}\n\n`{family}.kind`")
        parts += [_part(family, kind) for kind in table_of(family)]
    return "\n\n".join([OPENING.rstrip(), *parts]) + "\n"


def _overview(found: list[Recipe]) -> str:
    rows = [(f"[`{one.name}`](#{one.name})", f"`{one.base}`" if one.base else "", one.source) for one in found]
    return _markdown(("recipe", "varies", "source"), rows)


def _recipe(one: Recipe) -> str:
    """What it is, how its parts compute, and the keys that it sets."""
    rl = one.values.get("rl", {})
    lines = [f"### {one.name}", one.about, f"Source: {one.source}." + (f" Varies `{one.base}`." if one.base else "")]
    chosen = {
        "rl.rollout": [rl["rollout"]],
        "rl.rewards": rl["rewards"],
        "rl.signal": [rl["signal"]],
        "rl.objective": [rl["objective"]],
    }
    computed = [
        f"- {family.removeprefix('rl.')} `{choice['kind']}`: {_first(_module(family, choice['kind']))}"
        for family, choices in chosen.items()
        for choice in choices
    ]
    lines.append("\n".join(computed))
    modules = [_module(family, choice["kind"]) for family, choices in chosen.items() for choice in choices]
    lines += [formula for doc in modules if (formula := _formula(doc))]
    keys = [(f"`{key}`", _value(value)) for key, value in flat(one.values).items() if key != "rl.rewards"]
    for number, reward in enumerate(rl["rewards"]):
        keys += [(f"`rl.rewards.{number}.{key}`", _value(value)) for key, value in reward.items()]
    lines.append(_markdown(("key", "value"), keys))
    return "\n\n".join(lines)


def _part(family: str, kind: str) -> str:
    """A kind: what its module says, its source, its options."""
    part: Part = load_part(table_of(family), kind, where=family)
    doc = inspect.cleandoc(_module(family, kind))
    lines = [f"### {kind}", doc, f"Source: {part.source}." if part.source else ""]
    rows = [_option(key) for key in section_keys(part.options)]
    if rows:
        lines.append(_markdown(("option", "type", "default", "bounds", "what it does"), rows))
    return "\n\n".join(line for line in lines if line)


def _option(key: KeyHelp) -> tuple[str, ...]:
    return f"`{key.key}`", key.type, f"`{key.default}`", key.bounds, key.help


def _module(family: str, kind: str) -> str:
    """The docstring of the module that holds a kind."""
    return importlib.import_module(table_of(family)[kind].split(":")[0]).__doc__ or ""


def _first(doc: str) -> str:
    """The first paragraph, on one line."""
    return " ".join(inspect.cleandoc(doc).split("\n\n")[0].split())


def _formula(doc: str) -> str:
    """The indented blocks of a docstring, which are its formulas, as code."""
    blocks = inspect.cleandoc(doc).replace("::\n", ":\n").split("\n\n")
    indented = [block for block in blocks if block and all(line.startswith("    ") for line in block.splitlines())]
    return "\n\n".join(indented)


def _value(value: Any) -> str:
    return f"`{value}`".replace("True", "true").replace("False", "false")


def _markdown(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    write_page(__doc__, page, "docs/methods.md", "recrl.methods_page")
