"""The SID index: suffixes of shared paths, and the index on disk."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from safetensors.numpy import load_file, save_file

from recrl.errors import DataError
from recrl.sids.codes import SidIndex, load, save, with_suffixes

SHARED = np.array([[1, 2], [0, 0], [1, 2], [2, 0], [1, 2], [0, 0]], np.int32)


def test_shared_paths_are_numbered_in_row_order_and_unique_ones_get_none() -> None:
    index = with_suffixes(SHARED, (3, 3))
    assert index.suffix.tolist() == [0, 0, 1, -1, 2, 1]
    assert index.num_suffixes == 3
    assert index.tokens(4) == ["<a_1>", "<b_2>", "<d_2>"]
    assert index.tokens(3) == ["<a_2>", "<b_0>"]
    assert index.vocabulary() == ["<a_0>", "<a_1>", "<a_2>", "<b_0>", "<b_1>", "<b_2>", "<d_0>", "<d_1>", "<d_2>"]


@given(stn.arrays(np.int32, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=st.integers(0, 2)))
def test_every_item_has_a_sid_of_its_own_that_is_no_prefix_of_another(codes: np.ndarray) -> None:
    index = with_suffixes(codes, (3,) * codes.shape[1])
    sids = [tuple(index.tokens(item)) for item in range(len(index))]
    assert len(set(sids)) == len(sids)
    assert not any(left != right and right[: len(left)] == left for left in sids for right in sids)
    assert {token for sid in sids for token in sid} <= set(index.vocabulary())
    shared = Counter(map(tuple, codes.tolist()))
    assert [suffix >= 0 for suffix in index.suffix] == [shared[tuple(path)] > 1 for path in codes.tolist()]


def test_no_level_uses_the_letter_of_the_suffix() -> None:
    index = with_suffixes(np.zeros((2, 7), np.int32), (1,) * 7)
    assert index.tokens(1) == ["<a_0>", "<b_0>", "<c_0>", "<e_0>", "<f_0>", "<g_0>", "<h_0>", "<d_1>"]


def saved(folder: Path) -> SidIndex:
    index = with_suffixes(SHARED, (3, 4), {"dataset": "abc", "note": "ü"})
    save(index, folder, {"codebook": np.eye(2, dtype=np.float32)})
    return index


def test_an_index_comes_back_from_disk(tmp_path: Path) -> None:
    before = saved(tmp_path)
    after = load(tmp_path)
    assert np.array_equal(after.codes, before.codes)
    assert np.array_equal(after.suffix, before.suffix)
    assert after.sizes == (3, 4)
    assert after.fingerprint == before.fingerprint
    assert after.meta["dataset"] == "abc"
    assert np.array_equal(load_file(tmp_path / "model.safetensors")["codebook"], np.eye(2))


def test_the_fingerprint_changes_with_a_code_and_with_a_suffix() -> None:
    base = with_suffixes(SHARED, (3, 3))
    codes, suffix = base.codes.copy(), base.suffix.copy()
    codes[3, 0], suffix[3] = 0, 5
    changed = (SidIndex(codes, base.suffix, base.sizes), SidIndex(base.codes, suffix, base.sizes))
    assert len({index.fingerprint for index in (base, *changed)}) == 3


def lose(folder: Path, name: str) -> None:
    (folder / name).unlink()


def cut(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:30])


def without_key(folder: Path, name: str) -> None:
    if name == "sid.json":
        meta = json.loads((folder / name).read_text())
        del meta["sizes"]
        (folder / name).write_text(json.dumps(meta))
    else:
        save_file({"codes": SHARED}, folder / name)


def other_content(folder: Path, name: str) -> None:
    if name == "sid.json":
        (folder / name).write_text("[1, 2]")
    else:
        arrays = load_file(folder / name)
        save_file(arrays | {"codes": arrays["codes"][::-1].copy()}, folder / name)


@pytest.mark.parametrize("name", ["sid.json", "codes.safetensors"])
@pytest.mark.parametrize("damage", [lose, cut, without_key, other_content], ids=lambda damage: damage.__name__)
def test_a_damaged_index_is_a_data_error(tmp_path: Path, damage: object, name: str) -> None:
    saved(tmp_path)
    assert callable(damage)
    damage(tmp_path, name)
    with pytest.raises(DataError, match="SID index") as caught:
        load(tmp_path)
    assert "recrl sid build" in caught.value.fix


def test_no_index_at_all_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no SID index"):
        load(tmp_path / "nowhere")
