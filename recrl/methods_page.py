"""The page of methods: what each recipe sets, and every part once, from recipe files and docstrings.

python -m recrl.methods_page [FILE]    # default: docs/methods.md; --check fails where the file is out of date
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from recrl import recipe as recipes
from recrl.config_help import KeyHelp, as_toml, section_keys
from recrl.config_help import table as table_of
from recrl.generated_page import write_page
from recrl.parts import load_part
from recrl.recipe import Recipe
from recrl.recipe_settings import own_settings

FAMILIES = {
    "rl.environment": "Environments",
    "rl.rollout": "Rollouts",
    "rl.rewards": "Rewards",
    "rl.signal": "Signals",
    "rl.objective": "Objectives",
}
CHOSEN = ("rollout", "rewards", "signal", "objective")
"""What a recipe chooses: keys of its section ``rl``, in the order in which they act."""
NEEDS = {"targets": "Known targets are", "feedback": "An environment that answers is"}
OPENING = """\
# Methods

Written by `python -m recrl.methods_page` from the recipe files and the docstrings of the code; the suite fails where
this page is out of date. `papers.md B-3` is a section of [that page](papers.md): formulas and their readings.

A method is a recipe: rollout, rewards, signal, objective, tasks and schedule. `recrl rl CONFIG --recipe NAME` trains
with one, `recrl recipe show NAME` prints all its keys, `recrl recipe diff A B` compares two. Parts go with each other,
or are refused before the run starts, with the reason. A new part is one file beside the others and one line in its
family's table, a new recipe one file in `recrl/recipes/`. Options of several kinds stand at the top of their family.

## Recipes

"Sets" names what differs from the defaults, the parts in this table aside; of a variant, what differs from the recipe
that it varies. Tables of tasks are whole, without tasks of weight 0.
"""


def page() -> str:
    """The whole page."""
    found = [recipes.read(name) for name in recipes.names()]
    roots = [one for one in found if not one.base]
    sections = [OPENING.rstrip(), _overview(roots, found)]
    for one in roots:
        sections += _recipe(one, found)
    for family in FAMILIES:
        sections += _family(family)
    return "\n\n".join(sections) + "\n"


def _overview(roots: list[Recipe], found: list[Recipe]) -> str:
    """Recipes that vary no other one, with their parts."""
    rows = []
    for one in roots:
        count = sum(len(_variants(base, found)) for base in _bases(one, found))
        name = f"[`{one.name}`](#{one.name})" + (f" and {count} variants" if count else "")
        rl = one.values["rl"]
        chosen = [rl[key] if isinstance(rl[key], list) else [rl[key]] for key in CHOSEN]
        parts = [
            ", ".join(f"[`{choice['kind']}`](#{key.removesuffix('s')}-{choice['kind']})" for choice in choices)
            for key, choices in zip(CHOSEN, chosen, strict=True)
        ]
        rows.append((name, *parts, one.source))
    return _markdown(("recipe", *CHOSEN, "source"), rows)


def _recipe(one: Recipe, found: list[Recipe]) -> Iterator[str]:
    """The section of a recipe that varies no other one: what it is, what it sets, its variants, and theirs."""
    yield f"### {one.name}"
    yield one.about + (f" Sets {sets}." if (sets := _sets(one)) else "")
    for base in _bases(one, found):
        rows = [(f"`{each.name}`", each.about, _sets(each), each.source) for each in _variants(base, found)]
        yield _markdown((f"variant of `{base.name}`", "what it is", "sets", "source"), rows)


def _bases(root: Recipe, found: list[Recipe]) -> list[Recipe]:
    """A recipe and those below it, as far as others vary them."""
    variants = _variants(root, found)
    below = [base for one in variants for base in _bases(one, found)]
    return [root, *below] if variants else []


def _variants(base: Recipe, found: list[Recipe]) -> list[Recipe]:
    return [one for one in found if one.base == base.name]


def _sets(one: Recipe) -> str:
    return ", ".join(f"`{key} = {as_toml(value)}`" for key, value in own_settings(one).items())


def _family(family: str) -> Iterator[str]:
    """What its package says, the options that several kinds have, and every kind."""
    parts = {kind: load_part(table_of(family), kind, where=family) for kind in table_of(family)}
    options = {kind: section_keys(part.options) for kind, part in parts.items()}
    counts = Counter(option for having in options.values() for option in having)
    shared = [option for option, count in counts.items() if count > 1]
    yield f"## {FAMILIES[family]}: `{family}`"
    package = _module(family, next(iter(parts))).rpartition(".")[0]
    needs = [_needs(gift, {kind: part.needs == gift for kind, part in parts.items()}) for gift in NEEDS]
    yield " ".join(filter(None, (_doc(package), *needs)))
    if shared:
        rows = [(*_option(one), _who({kind: one in having for kind, having in options.items()})) for one in shared]
        yield _markdown(("option and default", "values", "what it does", "kinds"), rows)
    for kind, part in parts.items():
        yield f"### {FAMILIES[family].removesuffix('s')} `{kind}`"
        yield _with_source(_doc(_module(family, kind)), part.source)
        if own := [_option(option) for option in options[kind] if option not in shared]:
            yield _markdown(("option and default", "values", "what it does"), own)


def _with_source(doc: str, source: str) -> str:
    """A docstring, with the source in its first paragraph unless all words of it are in the docstring."""
    words = re.compile(r"[\w:./-]*\w")
    if set(words.findall(source)) <= set(words.findall(doc)):
        return doc
    first, *rest = doc.split("\n\n", 1)
    return "\n\n".join([f"{first} Source: {source}.", *rest])


def _needs(gift: str, by_kind: dict[str, bool]) -> str:
    """A sentence on the kinds that need something of the environment."""
    return f"{NEEDS[gift]} needed by {_who(by_kind)}." if any(by_kind.values()) else ""


def _who(by_kind: dict[str, bool]) -> str:
    """The kinds of which something holds, or the others where they are fewer."""
    having = [f"`{kind}`" for kind, holds in by_kind.items() if holds]
    lacking = [f"`{kind}`" for kind, holds in by_kind.items() if not holds]
    if not lacking:
        return "all"
    return f"all but {', '.join(lacking)}" if len(lacking) < len(having) else ", ".join(having)


def _option(key: KeyHelp) -> tuple[str, str, str]:
    values = key.type.replace(" | ", " or ")
    return f"`{key.key} = {key.default}`", ", ".join(filter(None, (values, key.bounds))), key.help


def _module(family: str, kind: str) -> str:
    return table_of(family)[kind].split(":")[0]


def _doc(module: str) -> str:
    """A module's docstring as Markdown, which takes indented blocks, the formulas, for code."""
    return inspect.cleandoc(importlib.import_module(module).__doc__ or "").replace("``", "`")


def _markdown(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    write_page(__doc__, page, "docs/methods.md", "recrl.methods_page")
