"""Codebooks that follow what they quantise while it is still being trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DEAD = 0.1  # of an equal share of the batch; a code that is used less begins again elsewhere


class MovingCodebooks:
    """Centroids that are exponential moving averages of their residuals (arXiv:1711.00937, appendix A.1).

    A code that hardly any row chooses is moved to a random residual of the batch, as the average of nothing would leave
    it where the residuals once were.

    Args:
        books: a [K, e] a level.
        decay: share of the average that a batch leaves as it was.
        batch: rows of a batch.
    """

    def __init__(self, books: list[Tensor], decay: float, batch: int) -> None:
        self.books = books
        self.decay = decay
        self.shares = [batch / len(book) for book in books]
        self.counts = [torch.full((len(book),), share) for book, share in zip(books, self.shares, strict=True)]
        self.sums = [share * book for book, share in zip(books, self.shares, strict=True)]

    @torch.no_grad()
    def update(self, level: int, residual: Tensor, codes: Tensor) -> None:
        """Move a level's centroids towards the [B, e] residuals that chose them by ``codes`` [B]."""
        counts, sums, share = self.counts[level], self.sums[level], self.shares[level]
        counts.lerp_(torch.bincount(codes, minlength=len(counts)).to(counts), 1 - self.decay)
        sums.lerp_(torch.zeros_like(sums).index_add_(0, codes, residual), 1 - self.decay)
        dead = (counts < DEAD * share).nonzero().squeeze(1)
        sums[dead] = share * residual[torch.randint(len(residual), (len(dead),))]
        counts[dead] = share
        self.books[level] = sums / counts[:, None]


def quantise_batch(hidden: Tensor, books: list[Tensor]) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Quantise residually, with the gradient straight through.

    Returns:
        The quantised [B, e], whose gradient goes to ``hidden``; the commitment, mean ||r - sg(c)||^2 summed over
        levels; and a (residual [B, e], codes [B]) a level, without gradients.
    """
    residual, quantised = hidden, torch.zeros_like(hidden)
    commitment = hidden.new_zeros(())
    chosen = []
    for book in books:
        with torch.no_grad():
            codes = (book.square().sum(dim=1) - 2 * residual @ book.T).argmin(dim=1)
        chosen.append((residual.detach(), codes))
        centroid = book[codes]
        commitment = commitment + nn.functional.mse_loss(residual, centroid)
        quantised = quantised + centroid
        residual = residual - centroid
    return hidden + (quantised - hidden).detach(), commitment, chosen
