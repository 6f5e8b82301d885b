"""An autoencoder that begins as principal component analysis.

Encoder and decoder are each a linear map plus an MLP. At the start the linear maps are the principal components and the
MLPs give 0, so distances between encodings are those between inputs and k-means of encodings makes good codebooks
without any training before.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class LinearPlusMlp(nn.Module):
    """[B, widths[0]] -> [B, widths[-1]].

    Args:
        linear: [widths[-1], widths[0]] the linear map at the start.
    """

    def __init__(self, widths: tuple[int, ...], linear: Tensor) -> None:
        super().__init__()
        self.linear = nn.Parameter(linear.clone())
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layer = nn.Linear(before, after)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.ReLU()]
        nn.init.zeros_(layer.weight)
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, rows: Tensor) -> Tensor:
        mapped: Tensor = rows @ self.linear.T + self.mlp(rows)
        return mapped


class Autoencoder(nn.Module):
    """[B, d] -> [B, e] -> [B, d], with the decoder's hidden layers those of the encoder reversed."""

    def __init__(self, inputs: NDArray[np.float32], hidden: tuple[int, ...], latent_dim: int) -> None:
        super().__init__()
        widths = (inputs.shape[1], *hidden, latent_dim)
        components = torch.from_numpy(principal_components(inputs, latent_dim))
        self.encoder = LinearPlusMlp(widths, components)
        self.decoder = LinearPlusMlp(widths[::-1], components.T)


def principal_components(inputs: NDArray[np.float32], number: int) -> NDArray[np.float32]:
    """[N, d] centred -> [number, d] orthonormal rows, the largest variance first; rows of zeros beyond d."""
    covariance = (inputs.T @ inputs).astype(np.float64)
    directions = np.linalg.eigh(covariance)[1].T[::-1][:number]
    components = np.zeros((number, inputs.shape[1]), np.float32)
    components[: len(directions)] = directions
    return components
