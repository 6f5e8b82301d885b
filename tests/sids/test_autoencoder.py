from __future__ import annotations

import numpy as np
import pytest
import torch

from recrl.sids.quantizers.autoencoder import Autoencoder, principal_components


def inputs() -> np.ndarray:
    rng = np.random.default_rng(0)
    data = np.asarray(rng.standard_normal((50, 4)) * [1, 3, 2, 0.1], np.float32)
    return data - data.mean(axis=0)


def test_components_are_those_of_the_singular_value_decomposition():
    data = inputs()
    ours = principal_components(data, 2)
    theirs = np.linalg.svd(data)[2][:2]
    assert np.abs((ours * theirs).sum(axis=1)) == pytest.approx(np.ones(2), abs=1e-4)


@pytest.mark.parametrize(("latent_dim", "kept"), [(2, 2), (4, 4), (7, 4)])
def test_untrained_it_loses_the_variance_of_the_components_left_out(latent_dim, kept):
    data = inputs()
    model = Autoencoder(data, (16,), latent_dim)
    with torch.no_grad():
        rebuilt = model.decoder(model.encoder(torch.from_numpy(data))).numpy()
    left_out = np.square(np.linalg.svd(data)[1])[kept:].sum()
    assert np.square(data - rebuilt).sum() == pytest.approx(left_out, abs=1e-3)
