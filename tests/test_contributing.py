"""The examples of how to add a part work as they stand: put into a copy of the source they pass their own tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("CONTRIBUTING.md", "docs/adding-a-part.md")
COPIED = ("recrl", "commands", "kernels", "hw_profiles", "tests", "examples/shop", "pyproject.toml")
FENCE = re.compile(r"^```(?:python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"^# ([\w/.-]+\.(?:py|toml))(?:, in (\w+))?\n", re.MULTILINE)


class Addition(NamedTuple):
    """A new file, or with ``table`` a line of a table in one that is there."""

    path: str
    table: str
    text: str


def additions() -> list[Addition]:
    """What the pages add, in their order."""
    found = []
    for page in PAGES:
        for fence in FENCE.findall((ROOT / page).read_text(encoding="utf-8")):
            before, *rest = PLACE.split(fence)
            assert not before, f"{page}: an example begins with the place that it goes to"
            found += map(Addition, rest[0::3], (table or "" for table in rest[1::3]), rest[2::3])
    return found


def add(copy: Path, one: Addition) -> None:
    """Write the file; or put the line at the end of its table, in place of one with the same key."""
    path = copy / one.path
    if not one.table:
        assert not path.exists(), f"{one.path} is there already"
        path.write_text(one.text)
        return
    before, opening, rest = re.split(rf"(^{one.table}\b[^\n]*\{{\n)", path.read_text(), maxsplit=1, flags=re.MULTILINE)
    lines, after = rest.split("\n}\n", 1)
    key = one.text.split(":")[0]
    kept = [line for line in lines.split("\n") if not line.startswith(f"{key}:")]
    path.write_text(before + opening + "\n".join([*kept, one.text]) + "}\n" + after)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source with all examples in it."""
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for one in additions():
        add(folder, one)
    return folder


def run(copy: Path, *arguments: str) -> None:
    path = os.pathsep.join((str(copy), str(copy / "tests")))
    shown = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=copy, env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_there_is_an_example_of_every_kind() -> None:
    tables = {one.table for one in additions()} - {""}
    families = {"REWARDS", "SIGNALS", "OBJECTIVES", "ROLLOUTS", "BASELINES", "ENCODERS", "QUANTIZERS", "READERS"}
    assert tables == families | {"KERNELS"}
    folders = {Path(one.path).parent.as_posix() for one in additions()}
    assert {"recrl/recipes", "hw_profiles"} <= folders


def test_the_examples_pass_their_tests(copy: Path) -> None:
    own = [one.path for one in additions() if one.path.startswith("tests/")]
    assert len(own) == 8
    others = ["tests/training/test_recipes.py", "tests/kernels/test_swiglu.py", "tests/hardware/test_profiles.py"]
    chosen = " or ".join(["best_first", "sigmoid", "l4", *(Path(path).stem for path in own)])
    run(copy, "pytest", "-p", "no:cacheprovider", *own, *others, "-k", chosen)


def test_with_blank_lines_put_in_the_examples_are_in_our_style(copy: Path) -> None:
    files = [one.path for one in additions() if one.path.endswith(".py")]
    run(copy, "ruff", "check", "--quiet", "--fix", *files)
    run(copy, "ruff", "format", "--quiet", *files)
    run(copy, "ruff", "check", "--quiet", *files)
