"""The page of methods is what the code and the recipes say."""

from __future__ import annotations

from pathlib import Path

from recrl import methods_page as methods
from recrl.recipe import names

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == methods.page(), "write it again with `python -m recrl.methods_page`"


def test_every_recipe_and_every_part_has_its_section() -> None:
    text = methods.page()
    kinds = [kind for family in methods.FAMILIES for kind in methods.table_of(family)]
    assert all(f"\n### {name}\n" in text for name in [*names(), *kinds])
