"""The order of the rooms: each folder or file of ``recrl/`` imports from those above it alone; no circle of files."""

from __future__ import annotations

import ast
import os
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import recrl

PACKAGE = Path(recrl.__file__).parent
DOCS = Path(__file__).resolve().parents[1] / "docs"
ROOMS = (
    *("errors", "processes", "seeding", "generated_page", "atomic", "parts", "config_layers"),
    *("device", "kernels", "data", "models", "section", "recipe", "sids", "training_sections", "config"),
    *("config_help", "recipe_settings"),
    *("baselines", "memory", "groups", "prompts", "objectives", "signals", "methods_page"),
    *("backends", "store", "run_data", "rollout", "ranking", "environments", "evaluation", "report", "rewards"),
    *("method", "hardware", "training", "demo", "bench", "comparison", "commands"),
)
"""From what needs nothing to what needs the most."""


def name_of(path: Path) -> str:
    parts = ["recrl", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, wherever in the file."""
    files = [Path(folder, file) for folder, _, files in os.walk(PACKAGE, followlinks=True) for file in files]
    modules = {name_of(path): path for path in files if path.suffix == ".py"}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                names |= {one if one in modules else node.module for one in inner}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        found[module] = (names & modules.keys()) - {module}
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_its_place() -> None:
    assert {room(module) for module in imports() if module != "recrl"} == set(ROOMS)
    assert len(set(ROOMS)) == len(ROOMS)


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_from_those_above_it_alone(name: str) -> None:
    above = set(ROOMS[: ROOMS.index(name) + 1])
    wrong = {
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if module != "recrl" and other != "recrl" and room(module) == name and room(other) not in above
    }
    assert not wrong, "move what both need above both, or put the room elsewhere in ROOMS"


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_page_of_the_architecture_has_every_room_in_this_order() -> None:
    table = (DOCS / "architecture.md").read_text(encoding="utf-8").split("| room |")[1].split("\n\n")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == ROOMS
    picture = (DOCS / "images" / "rooms.svg").read_text(encoding="utf-8")
    assert set(re.findall(r">(\w+)</text>", picture)) >= set(ROOMS)
