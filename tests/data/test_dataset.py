"""A prepared data set on disk: round trip, and files that are missing or broken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recrl.data.dataset import Catalog, Dataset, Examples, Sequences, fingerprint, load, save
from recrl.data.ragged import Ragged
from recrl.errors import DataError

FILES = ("items", "users", "train", "train_examples", "valid", "test")


def small() -> Dataset:
    catalog = Catalog(
        ["x", "ÿ", "z"], ["Red hat", "", "Blue hat"], ["warm", "", ""], ["Acme", "", ""], ["hats", "hats", ""],
        [("<a_0>", "<b_1>"), ("<a_1>", "<b_1>"), ("<a_0>", "<b_0>")],
    )  # fmt: skip
    train = Sequences(np.array([0, 1], np.int32), Ragged.from_lists([[0, 1], [2, 1, 0]]), np.array([1, 2], np.int32))
    valid = Examples(
        np.array([0, 1], np.int32), Ragged.from_lists([[0, 1], []]), Ragged.from_lists([[2], [0, 1]]),
        ["next", "recif"], ["", "take <|item:1|>"], np.array([-1, 1], np.int8),
    )  # fmt: skip
    test = Examples.plain(np.array([1], np.int32), Ragged.from_lists([[2, 1]]), Ragged.from_lists([[0]]))
    return Dataset(catalog, ["u", "v"], train, Examples.empty(), valid, test, {"split": "given", "note": "ü"})


def same_rows(left: Ragged, right: Ragged) -> bool:
    return [row.tolist() for row in left] == [row.tolist() for row in right]


def same_examples(left: Examples, right: Examples) -> bool:
    return (
        left.users.tolist() == right.users.tolist()
        and same_rows(left.history, right.history)
        and same_rows(left.targets, right.targets)
        and (left.tasks, left.prompts, left.labels.tolist()) == (right.tasks, right.prompts, right.labels.tolist())
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    before = small()
    save(before, tmp_path)
    after = load(tmp_path)
    assert after.catalog == before.catalog
    assert after.user_ids == before.user_ids
    assert after.train.users.tolist() == [0, 1]
    assert after.train.first_target.tolist() == [1, 2]
    assert same_rows(after.train.items, before.train.items)
    for name in ("valid", "test"):
        assert same_examples(after.split(name), before.split(name))
    assert same_examples(after.train_examples, Examples.empty())
    assert after.meta["note"] == "ü"
    assert after.meta["fingerprint"] == fingerprint(before) == fingerprint(after)


def test_loaded_arrays_may_be_written_to(tmp_path: Path) -> None:
    save(small(), tmp_path)
    after = load(tmp_path)
    after.train.first_target[0] = 5
    after.valid.labels[0] = 0
    assert after.train.first_target[0] == 5


def test_the_fingerprint_follows_items_and_training_sequences_alone() -> None:
    base = small()
    assert fingerprint(replace(base, valid=base.test, meta={})) == fingerprint(base)
    other_items = replace(base.train, items=Ragged.from_lists([[0, 1], [2, 0, 1]]))
    other_cut = replace(base.train, items=Ragged.from_lists([[0, 1, 2], [1, 0]]))
    renamed = replace(base.catalog, item_ids=["x", "y", "z"])
    changed = [replace(base, train=other_items), replace(base, train=other_cut), replace(base, catalog=renamed)]
    assert len({fingerprint(dataset) for dataset in [base, *changed]}) == 4


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "columns"])
def test_a_broken_table_is_a_data_error_that_names_the_file(tmp_path: Path, name: str, damage: str) -> None:
    save(small(), tmp_path)
    path = tmp_path / f"{name}.parquet"
    if damage == "gone":
        path.unlink()
    elif damage == "columns":
        pq.write_table(pa.table({"something": [1]}), path)
    else:
        path.write_bytes(path.read_bytes()[: 40 if damage == "cut" else 0])
    with pytest.raises(DataError, match=f"{name}.parquet"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"', "\x00"])
def test_a_broken_description_is_a_data_error(tmp_path: Path, text: str) -> None:
    save(small(), tmp_path)
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json"):
        load(tmp_path)


def test_a_folder_that_was_never_prepared_and_one_of_another_version(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prepared data set"):
        load(tmp_path / "nowhere")
    save(small(), tmp_path)
    meta = json.loads((tmp_path / "dataset.json").read_text()) | {"version": 99}
    (tmp_path / "dataset.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="version 99"):
        load(tmp_path)


def test_selected_examples_keep_their_columns_together() -> None:
    chosen = small().valid.select(np.array([1]))
    assert (chosen.tasks, chosen.prompts, chosen.labels.tolist()) == (["recif"], ["take <|item:1|>"], [1])
    assert chosen.targets[0].tolist() == [0, 1]
    assert len(chosen.history[0]) == 0
