"""RQ-VAE: an autoencoder whose inside is quantised residually (arXiv:2203.01941; for SIDs arXiv:2305.05065).

Loss: reconstruction MSE + beta times the commitment ||r - sg(c)||^2 summed over levels, with the straight-through
estimator. The codebook term ||sg(r) - c||^2 of papers.md C-1 has no gradient here: its minimum is the mean of the
residuals, which the codebooks follow as moving averages. Codebooks begin as residual k-means of the first encodings.
Items that still share a path afterwards are spread over the last level by a Sinkhorn assignment, round by round.
Letters as in the package, and B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from recrl.parts import Options
from recrl.sids.quantizers import Arrays, Codes, Matrix, Quantized, Quantizer
from recrl.sids.quantizers.autoencoder import Autoencoder
from recrl.sids.quantizers.moving_codebooks import MovingCodebooks, quantise_batch
from recrl.sids.quantizers.residual import codebooks_of, decode, encode
from recrl.sids.quantizers.rq_kmeans import RqKmeansOptions
from recrl.sids.quantizers.rq_kmeans import fit as fit_kmeans

SINKHORN_ITERATIONS = 50


class RqVaeOptions(Options):
    hidden: tuple[int, ...] = (512,)
    """Widths of the encoder's hidden layers, reversed in the decoder."""
    latent_dim: int = Field(128, ge=1)
    """MiniOneRec has 32. Of Toys' fused embedding 32 principal components leave .65 of the variance, 128 leave .28."""
    beta: float = Field(0.25, ge=0)
    """Weight of the commitment term beside the reconstruction."""
    steps: int = Field(1000, ge=1, le=1_000_000)
    """Optimiser steps, whatever the size of the catalogue."""
    batch_size: int = Field(512, ge=1)
    lr: float = Field(1e-3, gt=0)
    """At the first step; it falls linearly to 0."""
    weight_decay: float = Field(0.0, ge=0)
    codebook_decay: float = Field(0.99, ge=0, lt=1)
    """Share of a codebook's moving average that a batch leaves as it was."""
    sinkhorn_epsilon: float = Field(0.003, gt=0)
    """Entropy of the assignment that separates items on one path; smaller is closer to the cheapest one."""
    sinkhorn_rounds: int = Field(20, ge=0)


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
    arrays = {name: tensor.numpy().copy() for name, tensor in model.encoder.state_dict().items()}
    arrays |= {"mean": mean, "scale": np.array([scale])}
    arrays |= {f"codebook.{level}": book.numpy().copy() for level, book in enumerate(books)}
    codebooks = codebooks_of(arrays)
    hidden = latent(points, arrays)
    codes = encode(hidden, codebooks)
    before = _colliding(codes)
    codes = separate(hidden, codes, codebooks, epsilon=options.sinkhorn_epsilon, rounds=options.sinkhorn_rounds)
    with torch.no_grad():
        decoded = model.decoder(torch.from_numpy(decode(codes, codebooks))).numpy()
    tenth = max(1, options.steps // 10)  # a batch's loss alone is noisy
    notes = {
        "loss_first": float(np.mean(losses[:tenth])),
        "loss_last": float(np.mean(losses[-tenth:])),
        "colliding_items_before_sinkhorn": int(before.sum()),
        "colliding_items_after_sinkhorn": int(_colliding(codes).sum()),
    }
    return Quantized(codes, np.asarray(decoded * scale + mean, np.float32), arrays, notes)


def latent(points: Matrix, arrays: Arrays) -> Matrix:
    """[n, e] the encoder's output, from its stored weights."""
    inputs = torch.from_numpy((points - arrays["mean"]) / arrays["scale"])
    hidden = inputs
    layers = sorted({int(name.split(".")[1]) for name in arrays if name.startswith("mlp.")})
    for layer in layers:
        weight, bias = (torch.from_numpy(arrays[f"mlp.{layer}.{part}"]) for part in ("weight", "bias"))
        hidden = nn.functional.linear(hidden, weight, bias)
        if layer != layers[-1]:
            hidden = hidden.relu()
    return np.asarray((inputs @ torch.from_numpy(arrays["linear"]).T + hidden).numpy(), np.float32)


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


def _train(
    inputs: Tensor, sizes: tuple[int, ...], options: RqVaeOptions, seed: int
) -> tuple[Autoencoder, list[Tensor], list[float]]:
    model = Autoencoder(inputs.numpy(), options.hidden, options.latent_dim)
    batch_size = min(options.batch_size, len(inputs))
    codebooks = MovingCodebooks(_first_books(model, inputs, sizes, seed), options.codebook_decay, batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, options.steps)
    losses = []
    for rows in _batches(len(inputs), batch_size, options.steps):
        batch = inputs[rows]
        quantised, commitment, chosen = quantise_batch(model.encoder(batch), codebooks.books)
        loss = nn.functional.mse_loss(model.decoder(quantised), batch) + options.beta * commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        for level, (residual, codes) in enumerate(chosen):
            codebooks.update(level, residual, codes)
        losses.append(float(loss.detach()))
    return model, codebooks.books, losses


def _first_books(model: Autoencoder, inputs: Tensor, sizes: tuple[int, ...], seed: int) -> list[Tensor]:
    with torch.no_grad():
        hidden = model.encoder(inputs).numpy()
    options = RqKmeansOptions(max_iter=10)
    return [torch.from_numpy(book) for book in codebooks_of(fit_kmeans(hidden, sizes, options, seed).arrays)]


def _batches(rows: int, size: int, steps: int) -> Iterator[Tensor]:
    """``steps`` times ``size`` row numbers; every row once before any row again."""
    left = torch.randperm(rows)
    for _ in range(steps):
        if len(left) < size:
            left = torch.cat([left, torch.randperm(rows)])
        yield left[:size]
        left = left[size:]


def _groups(codes: Codes) -> list[NDArray[np.int64]]:
    """Rows of every shared path, in order of the path."""
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    return [rows for rows in np.split(order, np.cumsum(counts)[:-1]) if len(rows) > 1]


def _colliding(codes: Codes) -> NDArray[np.bool_]:
    """[N] whether another item has the same path."""
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse.reshape(-1)] > 1)


RQ_VAE = Quantizer(RqVaeOptions, fit, "arXiv:2305.05065; papers.md C-1", latent=latent)
