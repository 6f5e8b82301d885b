from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from recrl.data.dataset import Catalog
from recrl.errors import ConfigError, DataError
from recrl.parts import Choice
from recrl.sids.encoders import hf, resolve_encoder, tfidf_svd
from recrl.sids.encoders.tfidf_svd import TfidfSvdOptions


def test_new_items_with_the_same_text_get_the_same_vector(catalog, train):
    options = TfidfSvdOptions(title_dim=12)
    encoded = tfidf_svd.fit(catalog, train, options, 0)
    assert tfidf_svd.apply(catalog, encoded.arrays, options) == pytest.approx(encoded.embedding, abs=1e-6)


def test_every_block_has_its_weight_as_length(catalog, train):
    options = TfidfSvdOptions(title_dim=12, title_weight=2.0, category_weight=0.25)
    embedding = tfidf_svd.fit(catalog, train, options, 0).embedding
    assert np.linalg.norm(embedding[:, :12], axis=1) == pytest.approx(np.full(60, 2.0), abs=1e-5)
    assert np.linalg.norm(embedding[:, 12:], axis=1) == pytest.approx(np.full(60, 0.25), abs=1e-5)


def test_rows_are_embedded_alike_however_many_at_once(catalog, train, monkeypatch):
    whole = tfidf_svd.fit(catalog, train, TfidfSvdOptions(), 0).embedding
    monkeypatch.setattr(tfidf_svd, "ROWS_AT_ONCE", 7)
    assert (tfidf_svd.fit(catalog, train, TfidfSvdOptions(), 0).embedding == whole).all()


def test_a_large_catalogue_is_fitted_on_some_items_and_embedded_whole(catalog, train, monkeypatch):
    whole = tfidf_svd.fit(catalog, train, TfidfSvdOptions(title_dim=12), 0).embedding
    monkeypatch.setattr(tfidf_svd, "SVD_ITEMS", 50)
    some = tfidf_svd.fit(catalog, train, TfidfSvdOptions(title_dim=12), 0).embedding
    assert some.shape == whole.shape
    assert some.any(axis=1).all()
    assert not (some == whole).all()


def test_empty_fields_are_left_out_and_small_ones_shrink_and_both_are_said(catalog, train):
    notes = tfidf_svd.fit(catalog, train, TfidfSvdOptions(), 0).notes
    assert set(notes["left_out"]) == {"brand", "description"}
    assert notes["dims"]["category"] == 6  # as many as there are categories
    assert notes["shrunk"]["category"] == "48 -> 6: 60 items, 6 terms"


def test_a_category_is_one_term_and_a_path_of_categories_is_several():
    analyse = tfidf_svd._vectorizer(tfidf_svd.Block("category", [], 1, 1.0, words=False), TfidfSvdOptions())
    assert analyse.build_analyzer()("Toys & Games > Dolls|Houses") == ["Toys & Games", "Dolls", "Houses"]


def test_a_catalogue_of_one_item_has_a_vector(train):
    alone = Catalog(["x"], ["lone robot"], [""], [""], [""])
    embedding = tfidf_svd.fit(alone, train, TfidfSvdOptions(), 0).embedding
    assert embedding.shape == (1, 1)
    assert abs(embedding[0, 0]) == pytest.approx(1.0)


def test_items_without_any_known_term_are_counted(catalog, train):
    blank = dataclasses.replace(catalog, titles=["", *catalog.titles[1:]], categories=[""] * 60)
    encoded = tfidf_svd.fit(blank, train, TfidfSvdOptions(), 0)
    assert encoded.notes["items_without_text"] == 1
    assert not encoded.embedding[0].any()


def test_a_catalogue_without_text_is_refused(catalog, train):
    empty = dataclasses.replace(catalog, titles=[""] * 60, categories=[""] * 60)
    with pytest.raises(DataError, match="no item of the catalogue has text"):
        tfidf_svd.fit(empty, train, TfidfSvdOptions(), 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random two-layer BERT with a word tokenizer."""
    path = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "castle", "train", "puzzle", "red", "blue", "large", "small", "wooden"]
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(path)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(path)
    return path


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_vector_does_not_depend_on_the_batch(folder, catalog, train, pooling):
    small, large = (hf.HfOptions(path=folder, pooling=pooling, batch_size=size) for size in (1, 64))
    alone, together = (hf.fit(catalog, train, options, 0).embedding for options in (small, large))
    assert together == pytest.approx(alone, abs=1e-5)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(60), abs=1e-5)
    assert not np.allclose(together[0], together[10])


def test_pooling_is_blind_to_padding_on_either_side():
    hidden = torch.arange(8.0).view(1, 4, 2)
    right, left = torch.tensor([[1, 1, 0, 0]]), torch.tensor([[0, 0, 1, 1]])
    assert hf.pool(hidden, right, "mean").tolist() == [[1.0, 2.0]]
    assert hf.pool(hidden, left, "mean").tolist() == [[5.0, 6.0]]
    assert hf.pool(hidden, right, "last").tolist() == [[2.0, 3.0]]
    assert hf.pool(hidden, left, "last").tolist() == [[6.0, 7.0]]


def test_a_missing_model_folder_is_refused(tmp_path, catalog, train):
    with pytest.raises(ConfigError, match=r"config\.json is not there"):
        hf.fit(catalog, train, hf.HfOptions(path=tmp_path / "nowhere"), 0)


def test_a_folder_that_transformers_cannot_load_is_refused(tmp_path, catalog, train):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="transformers can't load it"):
        hf.fit(catalog, train, hf.HfOptions(path=tmp_path), 0)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'title_dim'"):
        resolve_encoder(Choice(kind="tfidf-svd", title_dims=3), where="sid.encoder")
