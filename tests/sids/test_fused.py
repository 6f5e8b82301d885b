from __future__ import annotations

import numpy as np
import pytest

from recrl.errors import ConfigError
from recrl.parts import Choice
from recrl.sids.encoders import fused
from recrl.sids.encoders.cooccurrence import CooccurrenceOptions
from recrl.sids.encoders.fused import FusedOptions

SMALL = {"text": Choice(kind="tfidf-svd", title_dim=12), "cooccurrence": CooccurrenceOptions(dim=8)}


def test_the_co_occurrence_part_of_a_cold_item_lands_among_its_theme(catalog, train):
    encoded = fused.fit(catalog, train, FusedOptions(**SMALL), 0)
    behaviour = encoded.embedding[:, -8:]
    near = behaviour[[8, 9]] @ behaviour.T  # never interacted with, theme of items 0 to 7
    assert near[:, :8].min() > near[:, 10:].max()
    assert encoded.notes["cooccurrence_from_text"] == 12


def test_weights_are_the_lengths_of_the_parts(catalog, train):
    options = FusedOptions(**SMALL, text_weight=2.0, cooccurrence_weight=0.5, unit_text=True)
    embedding = fused.fit(catalog, train, options, 0).embedding
    assert np.linalg.norm(embedding[:, :-8], axis=1) == pytest.approx(np.full(60, 2.0), abs=1e-4)
    assert np.linalg.norm(embedding[:, -8:], axis=1) == pytest.approx(np.full(60, 0.5), abs=1e-4)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_an_item_without_interactions_is_encoded_alike_at_build_time_and_later(catalog, train, whitening):
    options = FusedOptions(**SMALL, text_whitening=whitening, cooccurrence_whitening=whitening)
    encoded = fused.fit(catalog, train, options, 0)
    later = fused.apply(catalog, encoded.arrays, options)
    cold = [8, 9, 18, 19]
    assert later[cold] == pytest.approx(encoded.embedding[cold], abs=1e-5)


def test_full_whitening_gives_every_kept_direction_the_same_variance():
    rng = np.random.default_rng(0)
    points = np.asarray(rng.standard_normal((500, 3)) * [9, 3, 1] + 5, np.float32)
    white = fused._whiten(points, fused._fit_whitening(points, 1.0))
    assert np.cov(white.T, bias=True) == pytest.approx(np.eye(3), abs=1e-3)
    halfway = fused._whiten(points, fused._fit_whitening(points, 0.5))
    assert halfway.std(axis=0) == pytest.approx(np.sqrt(points.std(axis=0)), rel=0.05)


def test_only_a_text_encoder_can_be_the_text_part(catalog, train):
    with pytest.raises(ConfigError, match="no text encoder"):
        fused.fit(catalog, train, FusedOptions(text=Choice(kind="cooccurrence")), 0)
