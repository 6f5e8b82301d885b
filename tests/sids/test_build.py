from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from threadpoolctl import threadpool_limits

from recrl.data.dataset import Catalog, Examples
from recrl.data.ragged import Ragged
from recrl.errors import ConfigError, DataError, UserError
from recrl.parts import Choice, Options
from recrl.sids import build as building
from recrl.sids.build import SidPlan, build, build_folder
from recrl.sids.codes import load
from recrl.sids.encoders import ENCODERS, Encoded, Encoder

PLAN = SidPlan(Choice(kind="fused"), Choice(kind="balanced"), levels=3, codebook_size=4)


def given(catalog: Catalog, sids: list[tuple[str, ...]]) -> Catalog:
    count = len(sids)
    lists = (catalog.item_ids, catalog.titles, catalog.descriptions, catalog.brands, catalog.categories)
    return Catalog(*(values[:count] for values in lists), sids)


def test_the_folder_holds_what_was_built(dataset, tmp_path):
    built = build_folder(dataset, PLAN, 0, tmp_path / "sids")
    read = load(tmp_path / "sids")
    assert np.array_equal(read.codes, built.codes)
    assert read.sizes == (4, 4, 4)
    assert read.meta["statistics"] == built.meta["statistics"]
    assert read.meta["dataset"] == building.fingerprint(dataset)
    assert json.loads((tmp_path / "sids" / "item_ids.json").read_text()) == dataset.catalog.item_ids
    assert (
        sum(name.startswith("quantizer.codebook.") for name in load_file(tmp_path / "sids" / "model.safetensors")) == 3
    )


def test_valid_and_test_targets_do_not_change_the_ids(dataset):
    one = Examples.plain(np.zeros(1, np.int32), Ragged.from_lists([[0, 1]]), Ragged.from_lists([[59]]))
    other = dataclasses.replace(dataset, valid=one, test=one)
    assert np.array_equal(build(dataset, PLAN, 0)[0].codes, build(other, PLAN, 0)[0].codes)


def test_training_sequences_do_change_the_ids(dataset):
    mixed = np.random.default_rng(0).permutation(60).astype(np.int32)[dataset.train.items.values]
    train = dataclasses.replace(dataset.train, items=Ragged(mixed, dataset.train.items.offsets))
    changed = dataclasses.replace(dataset, train=train)
    assert not np.array_equal(build(dataset, PLAN, 0)[0].codes, build(changed, PLAN, 0)[0].codes)


def test_every_item_has_a_sid_of_its_own_and_none_is_a_prefix_of_another(dataset):
    index, _ = build(dataset, dataclasses.replace(PLAN, levels=1), 0)  # 60 items on 4 paths
    sids = {tuple(index.tokens(item)) for item in range(60)}
    assert len(sids) == 60
    assert not any(sid[:cut] in sids for sid in sids for cut in range(1, len(sid)))
    assert index.meta["statistics"]["collision_rate"] == pytest.approx(1 - 4 / 60)
    assert index.meta["statistics"]["collision_rate_with_suffix"] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_their_number_and_the_first(dataset, monkeypatch, value):
    embedding = np.ones((60, 3), np.float32)
    embedding[[7, 9], 1] = value
    broken = Encoder(Options, lambda *_: Encoded(embedding, {}, {}))
    monkeypatch.setattr("recrl.sids.encoders.tfidf_svd.TFIDF_SVD", broken)
    with pytest.raises(DataError, match="2 of 60 items is not finite, first item 'item-7'"):
        build(dataset, dataclasses.replace(PLAN, encoder=Choice(kind="tfidf-svd")), 0)


def test_a_build_that_fails_leaves_nothing_behind(dataset, tmp_path):
    bad = dataclasses.replace(
        dataset, catalog=dataclasses.replace(dataset.catalog, titles=[""] * 60, categories=[""] * 60)
    )
    with pytest.raises(DataError, match="has text"):
        build_folder(bad, PLAN, 0, tmp_path / "new" / "sids")
    assert list(tmp_path.iterdir()) == []


def test_an_index_is_not_replaced_unasked(dataset, tmp_path):
    build_folder(dataset, PLAN, 0, tmp_path / "sids")
    with pytest.raises(UserError, match="exists already"):
        build_folder(dataset, PLAN, 1, tmp_path / "sids")
    build_folder(dataset, PLAN, 1, tmp_path / "sids", overwrite=True)
    assert load(tmp_path / "sids").meta["seed"] == 1


@pytest.mark.parametrize("kind", ["balanced", "rq-kmeans"])
def test_the_number_of_threads_does_not_change_the_ids(dataset, kind):
    plan = dataclasses.replace(PLAN, quantizer=Choice(kind=kind))
    found = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            found.append(build(dataset, plan, 0)[1])
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("kind", ["encoder", "quantizer"])
def test_an_unknown_kind_names_the_known_ones(dataset, kind):
    with pytest.raises(ConfigError, match=f"sid.{kind}.kind = 'fussed'"):
        build(dataset, dataclasses.replace(PLAN, **{kind: Choice(kind="fussed")}), 0)


@pytest.mark.parametrize("kind", sorted(set(ENCODERS) - {"hf"}))
def test_every_encoder_builds(dataset, kind):
    index, _ = build(dataset, dataclasses.replace(PLAN, encoder=Choice(kind=kind)), 0)
    # Themes are what text and behaviour agree on, so items of a path are mostly of one.
    assert index.meta["statistics"]["category_purity"][-1] > 0.6


def test_an_empty_catalogue_is_refused(dataset):
    with pytest.raises(DataError, match="the catalogue is empty"):
        build(dataclasses.replace(dataset, catalog=Catalog([], [], [], [], [])), PLAN, 0)


def test_given_sids_are_taken_as_they_are(dataset):
    sids = [("<a_3>", "<b_1>"), ("<s_a_0>", "<s_b_1>"), ("<a_3>", "<b_1>")]
    plan = dataclasses.replace(PLAN, quantizer=Choice(kind="given"))
    index, arrays = build(dataclasses.replace(dataset, catalog=given(dataset.catalog, sids)), plan, 0)
    assert index.codes.tolist() == [[3, 1], [0, 1], [3, 1]]
    assert index.suffix.tolist() == [0, -1, 1]
    assert index.sizes == (4, 2)
    assert arrays == {}


def test_given_sids_can_be_numbered_anew_and_lose_the_suffix_of_their_source(dataset):
    sids = [("<a_30>", "<b_7>", "<d_1>"), ("<a_10>", "<b_7>"), ("<a_30>", "<b_7>", "<d_2>")]
    plan = dataclasses.replace(PLAN, quantizer=Choice(kind="given", dense=True))
    index, _ = build(dataclasses.replace(dataset, catalog=given(dataset.catalog, sids)), plan, 0)
    assert index.codes.tolist() == [[1, 0], [0, 0], [1, 0]]
    assert index.suffix.tolist() == [0, -1, 1]
    assert index.meta["quantizer"]["notes"] == {"suffixes_left_out": 2}


@pytest.mark.parametrize(
    ("sids", "words"),
    [
        (None, "no SIDs of its own"),
        ([("<a_1>",), ("a1",)], "'a1' of item 'item-1'"),
        ([("<a_1>",), ()], "item 'item-1' has an empty SID"),
    ],
    ids=["none", "token", "empty"],
)
def test_given_sids_that_cannot_be_read_are_refused(dataset, sids, words):
    catalog = dataset.catalog if sids is None else given(dataset.catalog, sids)
    with pytest.raises(DataError, match=words):
        build(
            dataclasses.replace(dataset, catalog=catalog), dataclasses.replace(PLAN, quantizer=Choice(kind="given")), 0
        )
