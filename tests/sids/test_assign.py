from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from recrl.errors import DataError, UserError
from recrl.parts import Choice
from recrl.sids.assign import _place, assign, assign_folder, read_items
from recrl.sids.build import SidPlan, build_folder
from recrl.sids.codes import load, with_suffixes

PLAN = SidPlan(Choice(kind="fused"), Choice(kind="balanced"), levels=3, codebook_size=6)
BOOKS = [np.array([[0], [10]], np.float32), np.array([[0], [1], [3]], np.float32)]


@pytest.fixture
def folder(dataset, tmp_path) -> Path:
    build_folder(dataset, PLAN, 0, tmp_path / "sids")
    return tmp_path / "sids"


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def place(codes: list[list[int]], points: list[float]):
    index = with_suffixes(np.array(codes, np.int32), (2, 3))
    found, suffix, moved = _place(index, np.array(points, np.float32)[:, None], BOOKS)
    return found.tolist(), suffix.tolist(), moved.tolist()


def test_a_free_path_is_taken_without_a_suffix_and_belongs_to_its_first_item():
    assert place([[0, 0]], [11.0, 11.0]) == ([[1, 1], [1, 0]], [-1, -1], [False, True])


def test_the_path_of_one_item_stays_its_own():
    assert place([[0, 1]], [0.9]) == ([[0, 0]], [-1], [True])


def test_a_shared_path_goes_on_with_the_next_number_that_has_a_token():
    codes = [[0, 0], [0, 0], [1, 0], [1, 0], [1, 0]]  # numbers up to 2 exist
    assert place(codes, [0.0, 0.1]) == ([[0, 0], [0, 1]], [2, -1], [False, True])


def test_where_the_last_level_is_full_the_next_code_of_the_level_before_is_taken():
    assert place([[0, 0], [0, 1], [0, 2]], [0.0]) == ([[1, 0]], [-1], [True])


def test_a_new_token_is_needed_only_where_no_path_is_left():
    codes = [[0, 0], [0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert place(codes, [0.0]) == ([[0, 0]], [2], [True])


def test_an_index_without_room_is_refused():
    with pytest.raises(UserError, match="all 6 paths of the index are taken"):
        place([[a, b] for a in range(2) for b in range(3)], [0.0])


@pytest.mark.parametrize("quantizer", ["balanced", "rq-kmeans", "rq-vae"])
def test_new_items_join_their_theme_and_no_sid_changes(dataset, tmp_path, quantizer):
    options = {"steps": 20, "hidden": (16,), "latent_dim": 8} if quantizer == "rq-vae" else {}
    plan = dataclasses.replace(PLAN, quantizer=Choice(kind=quantizer, **options), codebook_size=20)
    before = build_folder(dataset, plan, 0, tmp_path / "sids")
    rows = [
        {"item_id": f"new-{theme}-{n}", "title": f"{theme} {word}", "category": f"{theme.title()}s & More"}
        for theme in ("castle", "robot")
        for n, word in enumerate(("red deluxe", "blue mini", "wooden"))
    ]
    assigned = assign_folder(tmp_path / "sids", write(tmp_path / "new.jsonl", rows), tmp_path / "more")
    after = load(tmp_path / "more")
    assert [after.tokens(item) for item in range(60)] == [before.tokens(item) for item in range(60)]
    sids = {tuple(after.tokens(item)) for item in range(66)}
    assert len(sids) == 66
    assert not any(sid[:cut] in sids for sid in sids for cut in range(1, len(sid)))
    assert json.loads((tmp_path / "more" / "item_ids.json").read_text())[60:] == [row["item_id"] for row in rows]
    lines = (tmp_path / "more" / "assigned.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == assigned.rows
    if quantizer != "rq-vae":
        themes = {code: set(before.codes[10 * t : 10 * t + 10, 0]) for t, code in ((0, "castle"), (3, "robot"))}
        nearest_is_own = [after.codes[60 + row, 0] in themes[rows[row]["item_id"].split("-")[1]] for row in range(6)]
        assert sum(nearest_is_own) >= 5


def test_an_extended_index_can_be_extended_again_but_not_by_the_same_items(folder, tmp_path):
    first = write(tmp_path / "a.jsonl", [{"id": 900, "title": "castle red"}])
    assign_folder(folder, first, tmp_path / "one")
    with pytest.raises(DataError, match="'900' among them"):
        assign(tmp_path / "one", first)
    second = assign(tmp_path / "one", write(tmp_path / "b.jsonl", [{"id": 901, "title": "kite blue"}]))
    assert len(second.index) == 62
    assert [record["items"] for record in second.index.meta["assigned"]] == [1, 1]


def test_an_encoder_of_interactions_cannot_take_new_items(dataset, tmp_path):
    build_folder(dataset, dataclasses.replace(PLAN, encoder=Choice(kind="cooccurrence")), 0, tmp_path / "sids")
    with pytest.raises(UserError, match="a new item has none"):
        assign(tmp_path / "sids", write(tmp_path / "new.jsonl", [{"id": 1, "title": "castle"}]))


def test_an_index_without_a_model_cannot_take_new_items(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="can't take new items"):
        assign(folder, write(tmp_path / "new.jsonl", [{"id": 1, "title": "castle"}]))


def test_a_truncated_model_is_refused(folder, tmp_path):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is broken"):
        assign(folder, write(tmp_path / "new.jsonl", [{"id": 1, "title": "castle"}]))


def test_a_category_path_stands_in_for_description_and_category(tmp_path):
    catalog = read_items(
        write(tmp_path / "x.jsonl", [{"id": 4, "title": "a", "categories": ["Toys", "Dolls", "Houses"]}])
    )
    assert (catalog.item_ids, catalog.categories) == (["4"], ["Dolls"])
    assert catalog.descriptions == ["Toys > Dolls > Houses"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["{"], ":1: not JSON"),
        (["[1]"], ":1: list, not an object"),
        ([{"title": "a"}], ":1: no item_id"),
        ([{"id": 1, "title": 5}], ":1: title = 5"),
        ([{"id": 1, "title": " "}], "item 1 has no text"),
        ([{"id": 1, "title": "a", "categories": "Toys"}], ":1: categories = 'Toys'"),
        ([{"id": 1, "title": "a"}, {"item_id": "1", "title": "b"}], ":2: item '1' occurs twice"),
        ([], "holds no item"),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(tmp_path, rows, words):
    with pytest.raises(DataError, match=words):
        read_items(write(tmp_path / "new.jsonl", rows))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="can't read"):
        read_items(tmp_path / "nowhere.jsonl")
