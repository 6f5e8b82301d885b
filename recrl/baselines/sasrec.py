"""SASRec: causal self-attention over the items of a history (arXiv:1808.09781; METHODS F).

Learned positions, blocks of attention and a pointwise feed-forward net with the norm first; an item's score is the
product of the last state with its embedding. Trained by cross-entropy over all items, which needs fewer passes than the
paper's sampled binary cross-entropy; ``loss`` chooses.
Letters: U users, N items, T items of a history, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from recrl.components import Options, Part
from recrl.data.dataset import Catalog, Sequences
from recrl.data.ragged import Ragged
from recrl.kernels.registry import pick
from recrl.seeding import generator, seed_of

PADDING = -1
POOL_BATCHES = 16
"""Batches whose rows are sorted by length together."""


class SasrecOptions(Options):
    dim: int = Field(64, ge=1)
    """Width of embeddings and states."""
    layers: int = Field(2, ge=1)
    """Blocks of attention and feed-forward."""
    heads: int = Field(2, ge=1)
    """Of attention; they share the width."""
    dropout: float = Field(0.4, ge=0, lt=1)
    """Of the embeddings and of what every block adds."""
    history_limit: int = Field(50, ge=1)
    """Items of a history that are looked at, the latest."""
    epochs: int = Field(50, ge=0)
    """Passes over the training sequences."""
    batch_size: int = Field(64, ge=1)
    """Sequences of one optimiser step."""
    lr: float = Field(2e-3, gt=0)
    """Adam's, constant."""
    loss: Literal["softmax", "bce"] = "softmax"
    """Cross-entropy over all items, or the paper's: binary, against ``negatives`` random items a target."""
    negatives: int = Field(1, ge=1)
    """Random items a target, for ``bce``; their loss is a mean."""
    output: Literal["probability", "logit"] = "probability"
    """What ``scores`` gives. Probabilities are not negative and sum to 1, as soft targets must; logits are the more
    even ground for z-scores."""
    seed: int = 0
    """Of the start, the order of rows, dropout and random items."""

    @model_validator(mode="after")
    def _heads_divide(self) -> SasrecOptions:
        if self.dim % self.heads:
            raise ValueError(f"dim = {self.dim} can't be cut into {self.heads} heads")
        return self


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, options: SasrecOptions) -> None:
        super().__init__()
        dim = options.dim
        self.heads, self.dropout = options.heads, options.dropout
        self.attention_norm, self.forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, state: Tensor) -> Tensor:
        """[U, T, D] -> the same. Padding stands behind the end, where causal attention never looks."""
        parts = self.qkv(self.attention_norm(state)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        state = state + self._drop(self.out(seen.transpose(1, 2).flatten(2)))
        inner = self._drop(self.up(self.forward_norm(state)).relu())
        return state + self._drop(self.down(inner))

    def _drop(self, state: Tensor) -> Tensor:
        return F.dropout(state, self.dropout, self.training)


class Encoder(nn.Module):
    """Histories to states."""

    def __init__(self, num_items: int, options: SasrecOptions) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, options.dim)
        self.places = nn.Embedding(options.history_limit, options.dim)
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.layers))
        self.norm = nn.LayerNorm(options.dim)
        self.dropout = options.dropout
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, history: Tensor) -> Tensor:
        """[U, T] items, ``PADDING`` behind the end -> [U, T, D]: at every place what the items up to it predict."""
        places = torch.arange(history.shape[1], device=history.device)
        state = self.items(history.clamp(min=0)) + self.places(places)
        state = F.dropout(state, self.dropout, self.training)
        for block in self.blocks:
            state = block(state)
        normed: Tensor = self.norm(state)
        return normed


@dataclass(frozen=True)
class Sasrec:
    """A fitted model."""

    encoder: Encoder
    options: SasrecOptions

    @torch.no_grad()
    def scores(self, histories: Ragged, own: Sequences | None = None) -> NDArray[np.float32]:  # noqa: ARG002
        """[U, N]; an empty history scores 0 everywhere.

        ``own`` changes nothing: a network has no counts to take out, so a training history is scored by a model that
        has seen what came next.
        """
        recent = histories.tail(self.options.history_limit)
        scores = np.zeros((len(recent), self.encoder.items.num_embeddings), np.float32)
        known = np.flatnonzero(recent.lengths)
        if not len(known):
            return scores
        history = torch.from_numpy(recent.select(known).padded(PADDING))
        last = (history >= 0).sum(1) - 1
        logits = self.encoder(history)[torch.arange(len(last)), last] @ self.encoder.items.weight.t()
        found = logits.softmax(-1) if self.options.output == "probability" else logits
        scores[known] = found.numpy()
        return scores


def fit(train: Sequences, catalog: Catalog, options: SasrecOptions) -> Sasrec:
    """Train on the targets of the training sequences and on nothing else; a seed gives the same model every time."""
    rows = windows(train, options.history_limit)
    # Divided by the usual number of targets and not by a batch's own: all targets weigh alike, long rows' too.
    usual = (rows.items.lengths - rows.first_target).sum() * options.batch_size / max(1, len(rows))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed_of(options.seed, "sasrec", "init"))
        encoder = Encoder(len(catalog), options)
        optimizer = torch.optim.Adam(encoder.parameters(), lr=options.lr, betas=(0.9, 0.98))
        for epoch in range(options.epochs):
            torch.manual_seed(seed_of(options.seed, "sasrec", "epoch", epoch))
            for batch in batches(rows, options, epoch):
                (loss_sum(encoder, *tensors(rows.select(batch)), options) / usual).backward()
                optimizer.step()
                optimizer.zero_grad()
    return Sasrec(encoder.eval().requires_grad_(False), options)


def windows(train: Sequences, limit: int) -> Sequences:
    """Rows of at most ``limit + 1`` items that hold every target once, and before it what the row shows of the past."""
    lengths = train.items.lengths
    count = np.maximum(-(-(lengths - np.maximum(train.first_target, 1)) // limit), 0)
    row = np.repeat(np.arange(len(lengths)), count)
    from_end = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    stop = lengths[row] - from_end * limit
    start = np.maximum(stop - limit - 1, 0)
    first = np.maximum(train.first_target[row] - start, 1).astype(np.int32)
    return Sequences(train.users[row], train.items.select(row).cut(start, stop), first)


def batches(rows: Sequences, options: SasrecOptions, epoch: int) -> list[NDArray[np.int64]]:
    """Row numbers of an epoch's batches, in random order; like lengths of a random pool share one: less padding."""
    rng = generator(options.seed, "sasrec", "order", epoch)
    order, lengths = rng.permutation(len(rows)), rows.items.lengths
    size = options.batch_size
    pools = [order[begin : begin + POOL_BATCHES * size] for begin in range(0, len(order), POOL_BATCHES * size)]
    sorted_pools = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
    found = [pool[begin : begin + size] for pool in sorted_pools for begin in range(0, len(pool), size)]
    return [found[place] for place in rng.permutation(len(found))]


def tensors(rows: Sequences) -> tuple[Tensor, Tensor, Tensor]:
    """[U, T] histories, [U, T] the item that follows at every place, and [U, T] bool: it is a target."""
    items = torch.from_numpy(rows.items.padded(PADDING))
    history, following = items[:, :-1], items[:, 1:]
    place = torch.arange(1, items.shape[1])
    scored = (following >= 0) & (place >= torch.from_numpy(rows.first_target).unsqueeze(1))
    return history, following, scored


def loss_sum(encoder: Encoder, history: Tensor, following: Tensor, scored: Tensor, options: SasrecOptions) -> Tensor:
    """The loss summed over targets; the arguments are as ``tensors`` gives them."""
    state, target = encoder(history)[scored], following[scored]
    weight = encoder.items.weight
    if options.loss == "softmax":
        logp: Tensor = pick("linear_logp", "cpu").linear_logp(state, weight, target)[0]
        return -logp.sum()
    other = torch.randint(len(weight), (len(target), options.negatives))
    right, wrong = (state * weight[target]).sum(-1), (state.unsqueeze(1) * weight[other]).sum(-1)
    return -F.logsigmoid(right).sum() - F.logsigmoid(-wrong).sum() / options.negatives


SASREC = Part(SasrecOptions, fit, source="arXiv:1808.09781")
