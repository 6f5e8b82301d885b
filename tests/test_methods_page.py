"""The page of methods is what the code and the recipes say, each thing once."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from recrl import methods_page as methods
from recrl.config_help import section_keys
from recrl.parts import load_part
from recrl.recipe import names, read

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
PARTS = [(family, kind) for family in methods.FAMILIES for kind in methods.table_of(family)]
FORMULA = re.compile(r"\n\n[A-Za-z]\w*(\([^)]*\))?[+'-]? = ")
"""A paragraph that begins as a formula does and isn't indented."""


@pytest.fixture(scope="module")
def text() -> str:
    return methods.page()


def docstring(family: str, kind: str) -> str:
    """Of the module of a kind, as it stands in the file."""
    spec = importlib.util.find_spec(methods.table_of(family)[kind].split(":")[0])
    assert spec is not None
    assert spec.origin is not None
    found = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")), clean=False)
    assert found is not None
    return found


def formulas(doc: str) -> list[str]:
    """Paragraphs of a docstring whose lines are all indented."""
    return [block.rstrip() for block in doc.split("\n\n") if all(line.startswith("    ") for line in block.split("\n"))]


def section(text: str, title: str) -> str:
    """What stands under a heading of the third level."""
    return re.split(r"\n##", text.split(f"\n### {title}\n")[1])[0]


def titled(family: str, kind: str) -> str:
    return f"{methods.FAMILIES[family].removesuffix('s')} `{kind}`"


def test_the_page_is_up_to_date(text: str) -> None:
    assert PAGE.read_text(encoding="utf-8") == text, "write it again with `python -m recrl.methods_page`"


def test_every_heading_is_there_once(text: str) -> None:
    roots = [name for name in names() if not read(name).base]
    expected = [*roots, *(titled(family, kind) for family, kind in PARTS)]
    assert sorted(re.findall(r"^### (.*)$", text, re.MULTILINE)) == sorted(expected)


def test_every_recipe_is_a_section_or_a_row_below_its_base(text: str) -> None:
    overview = text.split("\n### ")[0]
    for recipe in map(read, names()):
        if not recipe.base:
            assert overview.count(f"\n| [`{recipe.name}`](#{recipe.name})") == 1, recipe.name
            assert recipe.about in section(text, recipe.name)
        else:
            table = text.split(f"\n| variant of `{recipe.base}` |")[1].split("\n\n")[0]
            assert f"\n| `{recipe.name}` | {recipe.about} |" in table
        assert text.count(recipe.about) == 1, recipe.name


def test_links_lead_to_headings(text: str) -> None:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(set(anchors)) == len(anchors)
    links = re.findall(r"\]\(#([^)]*)\)", text)
    assert links
    assert set(links) <= set(anchors)


def test_a_variant_shows_what_differs_alone(text: str) -> None:
    assert "| `recast_boundary_only` | ReCast's boundary pair" in text
    row = next(line for line in text.splitlines() if line.startswith("| `recast_boundary_only` |"))
    assert row.split(" | ")[2] == '`rl.signal.repair = "never"`'


@pytest.mark.parametrize(("family", "kind"), PARTS)
def test_a_part_has_its_formulas_as_code_and_they_are_there_once(text: str, family: str, kind: str) -> None:
    doc = docstring(family, kind)
    assert not FORMULA.search(doc), "indent it, and put a line of words after it, or ruff takes that away"
    own = section(text, titled(family, kind))
    assert own.strip().startswith(doc.strip().split("\n")[0].replace("``", "`"))
    for formula in formulas(doc):
        assert f"\n\n{formula.replace('``', '`')}\n" in own
        assert text.count(f"\n\n{formula}\n") == 1


@pytest.mark.parametrize("kind", methods.table_of("rl.objective"))
def test_an_objective_has_a_formula(kind: str) -> None:
    assert any(re.match(" +[JL] = ", line) for line in docstring("rl.objective", kind).split("\n"))


@pytest.mark.parametrize("kind", methods.table_of("rl.signal"))
def test_a_signal_has_a_formula(kind: str) -> None:
    assert formulas(docstring("rl.signal", kind))


def test_an_option_of_several_kinds_stands_in_the_familys_table_alone(text: str) -> None:
    for family in methods.FAMILIES:
        whole = text.split(f": `{family}`\n")[1].split("\n## ")[0]
        top = whole.split("\n### ")[0]
        for kind in methods.table_of(family):
            own = section(text, titled(family, kind))
            for option in section_keys(load_part(methods.table_of(family), kind, where=family).options):
                row = f"\n| `{option.key} = {option.default}` |"
                assert (row in top) != (row in own), (kind, option.key)
    assert text.count("| `rarity_power = 0.0` |") == 1
