"""SASRec: causal self-attention over the items of a history (arXiv:1808.09781; papers.md F).

Learned positions, blocks of attention and a pointwise feed-forward net with the norm first; an item's score is the
product of the last state with its embedding. Trained by cross-entropy over all items, which needs fewer passes than the
paper's sampled binary cross-entropy; ``loss`` chooses.
Rows lie flat, without padding, so a batch of any lengths costs what its items cost.
Letters: U rows, N items, T items of all rows, D width.
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

from recrl.data.dataset import Catalog, Sequences
from recrl.data.ragged import Ragged
from recrl.kernels.registry import pick
from recrl.kernels.shared_prefix_attention.rows import PrefixRows
from recrl.parts import Options, Part
from recrl.seeding import generator, seed_of


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

    def forward(self, state: Tensor, rows: PrefixRows) -> Tensor:
        """[T, D] -> the same; an item sees its own row up to itself."""
        query, key, value = self.qkv(self.attention_norm(state)).unflatten(-1, (3, self.heads, -1)).unbind(1)
        attend = pick("shared_prefix_attention", "cpu").shared_prefix_attention
        seen = attend(query, key, value, rows, scaling=query.shape[-1] ** -0.5)
        state = state + self._drop(self.out(seen.flatten(1)))
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

    def forward(self, history: Tensor, length: Tensor) -> Tensor:
        """[T] items of histories, concatenated, and [U] their lengths -> [T, D]: what the items up to each predict."""
        rows = PrefixRows.alone(length)
        state = self.items(history) + self.places(rows.positions)
        state = F.dropout(state, self.dropout, self.training)
        for block in self.blocks:
            state = block(state, rows)
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
        history, length = _flat(recent.select(known))
        logits = self.encoder(history, length)[length.cumsum(0) - 1] @ self.encoder.items.weight.t()
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
    """Row numbers of an epoch's batches: a plain permutation, which trains better than batches of like lengths."""
    order = generator(options.seed, "sasrec", "order", epoch).permutation(len(rows))
    return [order[begin : begin + options.batch_size] for begin in range(0, len(order), options.batch_size)]


def tensors(rows: Sequences) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[T] items but the last of every row, [U] how many, [T] the item that follows each, [T] bool: it is a target.

    Rows hold two items at least.
    """
    lengths = rows.items.lengths
    history, length = _flat(rows.items.cut(np.zeros_like(lengths), lengths - 1))
    following, _ = _flat(rows.items.cut(np.ones_like(lengths), lengths))
    place = 1 + PrefixRows.alone(length).positions
    return history, length, following, place >= torch.from_numpy(rows.first_target).repeat_interleave(length)


def _flat(rows: Ragged) -> tuple[Tensor, Tensor]:
    """[T] items of all rows, concatenated, and [U] their lengths."""
    return torch.from_numpy(rows.values.astype(np.int64)), torch.from_numpy(rows.lengths)


def loss_sum(
    encoder: Encoder, history: Tensor, length: Tensor, following: Tensor, scored: Tensor, options: SasrecOptions
) -> Tensor:
    """The loss summed over targets; the arguments are as ``tensors`` gives them."""
    state, target = encoder(history, length)[scored], following[scored]
    weight = encoder.items.weight
    if options.loss == "softmax":
        logp: Tensor = pick("linear_logp", "cpu").linear_logp(state, weight, target)[0]
        return -logp.sum()
    other = torch.randint(len(weight), (len(target), options.negatives))
    right, wrong = (state * weight[target]).sum(-1), (state.unsqueeze(1) * weight[other]).sum(-1)
    return -F.logsigmoid(right).sum() - F.logsigmoid(-wrong).sum() / options.negatives


SASREC = Part(SasrecOptions, fit, source="arXiv:1808.09781")
