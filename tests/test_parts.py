from __future__ import annotations

import importlib
import sys
import types
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from recrl.config_help import FAMILIES
from recrl.errors import ConfigError
from recrl.parts import Choice, Options, Part, load_part, resolve


class Inner(Options):
    window: int = 5


class Toy(Options):
    size: int = Field(2, ge=1)
    """How many."""
    scale: float | Literal["auto"] = 1.0
    inner: Inner = Inner()


TOY = Part(Toy, lambda: "ran", source="here")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A family whose one part lives in this file, under a name that can be imported."""
    module = types.ModuleType("toy_parts")
    module.TOY = TOY  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_parts", module)
    return {"toy": "toy_parts:TOY"}


def test_a_kind_and_its_options_are_found(table: dict[str, str]):
    part, options = resolve(table, Choice(kind="toy", size=3), where="toys")  # type: ignore[call-arg]
    assert part.run() == "ran"
    assert options == Toy(size=3)


def test_what_is_not_given_is_default(table: dict[str, str]):
    assert resolve(table, Choice(kind="toy"), where="toys")[1] == Toy()


def test_an_unknown_kind_names_the_key_and_the_nearest(table: dict[str, str]):
    with pytest.raises(ConfigError) as caught:
        load_part(table, "toi", where="toys.0")
    assert caught.value.found == "toys.0.kind = 'toi'"
    assert "did you mean 'toy'" in caught.value.fix


@pytest.mark.parametrize(
    ("given", "found", "words"),
    [
        ({"sise": 3}, "toys.sise = 3", "did you mean 'size'"),
        ({"size": 0}, "toys.size = 0", "greater than or equal to 1"),
        ({"scale": "big"}, "toys.scale = 'big'", "should be 'auto'"),
        ({"size": "few"}, "toys.size = 'few'", "valid integer"),
        ({"scale": float("nan")}, "toys.scale = nan", "finite"),
        ({"scale": float("inf")}, "toys.scale = inf", "finite"),
        ({"inner": {"windows": 2}}, "toys.inner.windows = 2", "did you mean 'window'"),
    ],
    ids=["unknown", "bound", "types", "type", "nan", "inf", "within"],
)
def test_a_wrong_option_is_told_in_full(table: dict[str, str], given: dict[str, Any], found: str, words: str):
    with pytest.raises(ConfigError) as caught:
        resolve(table, Choice(kind="toy", **given), where="toys")
    assert caught.value.found == found
    assert words in str(caught.value)


def test_options_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Toy().size = 4


def test_a_choice_keeps_what_stands_beside_its_kind():
    choice = Choice(kind="toy", size=3)  # type: ignore[call-arg]
    assert choice.given == {"size": 3}
    choice.given["size"] = 4
    assert choice.given == {"size": 3}


def test_the_docstring_under_an_option_is_its_help():
    assert Toy.model_fields["size"].description == "How many."


@pytest.mark.parametrize("place", FAMILIES.values())
def test_every_entry_of_every_table_loads(place: str):
    module, attribute = place.split(":")
    table = getattr(importlib.import_module(module), attribute)
    assert table
    for kind in table:
        part = load_part(table, kind, where=attribute)
        assert issubclass(part.options, Options)
        assert callable(part.run)


def test_a_kind_may_stand_alone():
    assert Choice.model_validate("toy") == Choice(kind="toy")
