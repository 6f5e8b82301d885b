"""RQ-VAE: an autoencoder whose inside is quantised residually (arXiv:2203.01941; for SIDs arXiv:2305.05065).

Loss (METHODS C-1): reconstruction MSE + sum over levels of ||sg(r) - c||^2 + beta ||r - sg(c)||^2, with the
straight-through estimator. Codebooks begin as k-means of the first encodings. Items that still share a path afterwards
are spread over the last level by a Sinkhorn assignment, round by round. Letters as in the package, and B rows of a
batch.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from recrl.components import Options
from recrl.sids.quantizers import Arrays, Codes, Matrix, Quantized, Quantizer
from recrl.sids.quantizers.kmeans import lloyd
from recrl.sids.quantizers.residual import codebooks_of, decode, encode

SINKHORN_ITERATIONS = 50


class RqVaeOptions(Options):
    hidden: tuple[int, ...] = (512, 256, 128, 64)
    """Widths of the encoder's hidden layers, reversed in the decoder. MiniOneRec has 2048 and 1024 before these."""
    latent_dim: int = Field(32, ge=1)
    beta: float = Field(0.25, ge=0)
    """Weight of the commitment term."""
    quantizer_weight: float = Field(1.0, ge=0)
    """Weight of both quantiser terms beside the reconstruction."""
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(1024, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warm_up_epochs: int = Field(10, ge=0)
    """Epochs of the plain autoencoder before the codebooks begin."""
    sinkhorn_epsilon: float = Field(0.003, gt=0)
    """Entropy of the assignment that separates items on one path; smaller is closer to the cheapest one."""
    sinkhorn_rounds: int = Field(20, ge=0)


class Autoencoder(nn.Module):
    """[B, d] -> [B, e] -> [B, d]."""

    def __init__(self, dim: int, hidden: tuple[int, ...], latent_dim: int) -> None:
        super().__init__()
        widths = (dim, *hidden, latent_dim)
        self.encoder = _mlp(widths)
        self.decoder = _mlp(widths[::-1])


def fit(points: Matrix, sizes: tuple[int, ...], options: RqVaeOptions, seed: int) -> Quantized:
    """[N, L] codes: the nearest of every level, but for items that Sinkhorn moved off a shared path."""
    sizes = tuple(min(size, len(points)) for size in sizes)
    # Standardised as a whole: lr and epsilon are written for inputs of unit variance.
    mean = points.mean(axis=0)
    scale = np.float32(max(float((points - mean).std()), 1e-8))
    inputs = torch.from_numpy((points - mean) / scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, books, losses = _train(inputs, sizes, options, seed)
    arrays = {name: tensor.detach().numpy().copy() for name, tensor in model.encoder.state_dict(prefix="mlp.").items()}
    arrays |= {"mean": mean, "scale": np.array([scale])}
    arrays |= {f"codebook.{level}": book.detach().numpy().copy() for level, book in enumerate(books)}
    codebooks = codebooks_of(arrays)
    hidden = latent(points, arrays)
    codes = encode(hidden, codebooks)
    before = _colliding(codes)
    codes = separate(hidden, codes, codebooks, epsilon=options.sinkhorn_epsilon, rounds=options.sinkhorn_rounds)
    with torch.no_grad():
        decoded = model.decoder(torch.from_numpy(decode(codes, codebooks))).numpy()
    notes = {
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "colliding_items_before_sinkhorn": int(before.sum()),
        "colliding_items_after_sinkhorn": int(_colliding(codes).sum()),
    }
    return Quantized(codes, np.asarray(decoded * scale + mean, np.float32), arrays, notes)


def latent(points: Matrix, arrays: Arrays) -> Matrix:
    """[n, e] the encoder's output, from its stored weights."""
    hidden = torch.from_numpy((points - arrays["mean"]) / arrays["scale"])
    layers = sorted({int(name.split(".")[1]) for name in arrays if name.startswith("mlp.")})
    for layer in layers:
        weight, bias = (torch.from_numpy(arrays[f"mlp.{layer}.{part}"]) for part in ("weight", "bias"))
        hidden = nn.functional.linear(hidden, weight, bias)
        if layer != layers[-1]:
            hidden = hidden.relu()
    return np.asarray(hidden.numpy(), np.float32)


def separate(hidden: Matrix, codes: Codes, codebooks: list[Matrix], *, epsilon: float, rounds: int) -> Codes:
    """Give items that share a path other codes of the last level, a balanced choice within each such group.

    Every round takes all groups that share a path and spreads each by Sinkhorn over the last level's codes; a group of
    n items then has up to n codes. Stops when no path is shared or a round changes nothing.
    """
    codes = codes.copy()
    last = codebooks[-1]
    residual = hidden - decode(codes[:, :-1], codebooks[:-1]) if len(codebooks) > 1 else hidden
    for _ in range(rounds):
        changed = False
        for group in _groups(codes):
            distance = np.square(residual[group][:, None] - last).sum(axis=2, dtype=np.float64)
            chosen = sinkhorn(distance, epsilon).argmax(axis=1).astype(np.int32)
            changed |= not np.array_equal(chosen, codes[group, -1])
            codes[group, -1] = chosen
        if not changed:
            break
    return codes


def sinkhorn(distance: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """[n, K] costs -> [n, K] plan whose rows sum to 1 / n and whose columns sum to 1 / K, in log space.

    Costs are centred and scaled to -1..1 first, so that ``epsilon`` means the same for any embedding.
    """
    middle = (distance.max() + distance.min()) / 2
    amplitude = max(float(distance.max() - middle), 1e-12)
    log_plan = -(distance - middle) / amplitude / epsilon
    rows, columns = distance.shape
    for _ in range(SINKHORN_ITERATIONS):
        log_plan -= np.logaddexp.reduce(log_plan, axis=0, keepdims=True) + np.log(columns)
        log_plan -= np.logaddexp.reduce(log_plan, axis=1, keepdims=True) + np.log(rows)
    return np.asarray(np.exp(log_plan))


def quantizer_loss(hidden: Tensor, books: list[Tensor], beta: float) -> tuple[Tensor, Tensor]:
    """[B, e] -> the straight-through quantised [B, e], and codebook + beta * commitment terms summed over levels."""
    residual, quantised = hidden, torch.zeros_like(hidden)
    loss = hidden.new_zeros(())
    for book in books:
        with torch.no_grad():
            nearest = (book.square().sum(dim=1) - 2 * residual @ book.T).argmin(dim=1)
        chosen = book[nearest]
        loss = loss + nn.functional.mse_loss(chosen, residual.detach())
        loss = loss + beta * nn.functional.mse_loss(residual, chosen.detach())
        quantised = quantised + chosen
        residual = residual - chosen.detach()
    return hidden + (quantised - hidden).detach(), loss


def _train(
    inputs: Tensor, sizes: tuple[int, ...], options: RqVaeOptions, seed: int
) -> tuple[Autoencoder, list[Tensor], list[float]]:
    model = Autoencoder(inputs.shape[1], options.hidden, options.latent_dim)
    books: list[Tensor] = []
    losses: list[float] = []
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, weight_decay=options.weight_decay)
    for epoch in range(options.warm_up_epochs + options.epochs):
        if epoch == options.warm_up_epochs:
            books = _first_books(model, inputs, sizes, seed)
            optimizer.add_param_group({"params": books, "weight_decay": 0.0})
        total = 0.0
        for rows in torch.randperm(len(inputs)).split(options.batch_size):
            batch = inputs[rows]
            hidden = model.encoder(batch)
            through, extra = quantizer_loss(hidden, books, options.beta)
            loss = nn.functional.mse_loss(model.decoder(through if books else hidden), batch)
            loss = loss + options.quantizer_weight * extra
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        if books:
            losses.append(total / len(inputs))
    return model, books, losses


def _first_books(model: Autoencoder, inputs: Tensor, sizes: tuple[int, ...], seed: int) -> list[Tensor]:
    with torch.no_grad():
        residual = model.encoder(inputs).numpy().copy()
    books = []
    for level, size in enumerate(sizes):
        rng = np.random.default_rng([seed, level])
        book = lloyd(residual, size, rng, n_init=1, max_iter=10, max_points_per_code=256)
        residual -= book[encode(residual, [book])[:, 0]]
        books.append(torch.from_numpy(book).requires_grad_())
    return books


def _mlp(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layers += [nn.Linear(narrow, wide), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _groups(codes: Codes) -> list[NDArray[np.int64]]:
    """Rows of every shared path, in order of the path."""
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    return [rows for rows in np.split(order, np.cumsum(counts)[:-1]) if len(rows) > 1]


def _colliding(codes: Codes) -> NDArray[np.bool_]:
    """[N] whether another item has the same path."""
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse.reshape(-1)] > 1)


RQ_VAE = Quantizer(RqVaeOptions, fit, "arXiv:2305.05065; METHODS C-1", latent=latent)
