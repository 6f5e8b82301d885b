"""The legal responses as a trie in dense integer tables, stepped for whole batches at once.

Node 0 is the root. The edges of a node lie side by side, sorted by token, so a node is a start and a count; nodes are
numbered in the order of the edges to them, so edge ``e`` leads to node ``e + 1`` and the children of a batch of nodes
are one gather. A response is legal if and only if it is a path from the root to a leaf.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.data.ragged import Ragged

ROOT = 0


@dataclass(frozen=True)
class Trie:
    """Tables on one device.

    Attributes:
        start: [nodes] first edge of a node.
        count: [nodes] its edges; 0 at a leaf.
        token: [edges] token of an edge; it leads to node ``edge + 1``.
        item: [nodes] row that ends here (the lowest of equal rows), -1 elsewhere.
        leaf: [rows] where a row ends.
        fanout: the largest count at every depth, from the root on.
    """

    start: Tensor
    count: Tensor
    token: Tensor
    item: Tensor
    leaf: Tensor
    fanout: tuple[int, ...]

    @cached_property
    def parent(self) -> Tensor:
        """[nodes] the node above, the root's is itself."""
        above = torch.arange(len(self.count), device=self.count.device).repeat_interleave(self.count)
        return torch.cat([above.new_zeros(1), above])

    def paths(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """What spells rows: [...] rows -> [..., depth] tokens and the nodes they are chosen at, -1 behind the end."""
        node = self.leaf[row]
        tokens, nodes = [], []
        for _ in range(self.depth):
            inside = node > ROOT
            tokens.append(torch.where(inside, self.token[node - 1], -1))
            node = self.parent[node]
            nodes.append(torch.where(inside, node, -1))
        backwards = torch.stack([torch.stack(tokens[::-1], -1), torch.stack(nodes[::-1], -1)])
        # Shorter rows begin behind as many blanks; a stable sort moves them to the end.
        order = (backwards[0] < 0).to(torch.uint8).argsort(dim=-1, stable=True).expand_as(backwards)
        ordered = backwards.gather(-1, order)
        return ordered[0], ordered[1]

    @property
    def depth(self) -> int:
        """Tokens of the longest response."""
        return len(self.fanout)

    def to(self, device: torch.device) -> Trie:
        start, count, token, item, leaf = (
            table.to(device) for table in (self.start, self.count, self.token, self.item, self.leaf)
        )
        return Trie(start, count, token, item, leaf, self.fanout)

    def edges(self, node: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Edges that leave a node.

        Args:
            node: [...] nodes.
            width: at least the largest count among them, such as ``fanout[depth]``.

        Returns:
            [..., width] edge numbers (0 where there is none) and [..., width] bool, True where there is one.
        """
        column = torch.arange(width, device=node.device)
        exists = column < self.count[node].unsqueeze(-1)
        return torch.where(exists, self.start[node].unsqueeze(-1) + column, 0), exists

    def step(self, node: Tensor, token: Tensor) -> Tensor:
        """[...] nodes and [...] tokens -> [...] nodes behind them, -1 where no such edge exists (or the node is -1)."""
        width = int(self.count.max())
        edge, exists = self.edges(node.clamp(min=0), width)
        match = exists & (self.token[edge] == token.unsqueeze(-1)) & (node >= 0).unsqueeze(-1)
        found = torch.where(match, edge + 1, -1)
        return found.max(dim=-1).values

    def walk(self, tokens: Tensor, length: Tensor) -> Tensor:
        """[N, R] responses and [N] their lengths -> [N] rows that they spell, -1 where illegal."""
        node = torch.zeros_like(length)
        for position in range(tokens.shape[1]):
            node = torch.where(position < length, self.step(node, tokens[:, position]), node)
        return torch.where(node >= 0, self.item[node.clamp(min=0)], -1)


def build_trie(rows: Ragged) -> Trie:
    """A trie of token rows; equal rows share a leaf.

    Raises:
        ValueError: a row is empty or a prefix of another: its end would not be a leaf.
    """
    lengths = rows.lengths
    if len(rows) == 0 or lengths.min() == 0:
        raise ValueError("every response needs at least one token")
    depth = int(lengths.max())
    padded = rows.padded(-1)
    order = np.lexsort(padded.T[::-1])
    padded = padded[order]
    node = np.zeros(len(rows), np.int64)  # of every sorted row, at the depth reached
    parents, tokens, fanout, total = [], [], [], 1
    for level in range(depth):
        alive = padded[:, level] >= 0
        rows_here, token = node[alive], padded[alive, level]
        fresh = np.ones(len(token), bool)
        fresh[1:] = (rows_here[1:] != rows_here[:-1]) | (token[1:] != token[:-1])
        parents.append(rows_here[fresh])
        tokens.append(token[fresh])
        fanout.append(int(np.unique(rows_here[fresh], return_counts=True)[1].max()))
        node[alive] = total + np.cumsum(fresh) - 1
        total += int(fresh.sum())
    return _tables(np.concatenate(parents), np.concatenate(tokens), node, order, total, tuple(fanout))


def _tables(
    parent: NDArray[np.int64],
    token: NDArray[np.int64],
    node: NDArray[np.int64],
    order: NDArray[np.int64],
    total: int,
    fanout: tuple[int, ...],
) -> Trie:
    count = np.bincount(parent, minlength=total)
    if count[node].any():
        raise ValueError("a response is a prefix of another")
    leaf = np.empty(len(order), np.int64)
    leaf[order] = node
    item = np.full(total, -1, np.int64)
    item[leaf[::-1]] = np.arange(len(order))[::-1]  # backwards: the lowest of equal rows stays
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    return Trie(
        torch.from_numpy(start),
        torch.from_numpy(count),
        torch.from_numpy(np.ascontiguousarray(token)),
        torch.from_numpy(item),
        torch.from_numpy(leaf),
        fanout,
    )
