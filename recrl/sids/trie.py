"""The legal responses as a trie in dense integer tables, stepped for whole batches at once.

The first nodes are the roots: one for SIDs, and one more where titles are responses too. The edges of a node lie side
by side, sorted by token, so a node is a start and a count; nodes are numbered in the order of the edges to them, so
edge ``e`` leads to node ``e + roots`` and the children of a batch of nodes are one gather. A response is legal if and
only if it is a path from its root to a leaf.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.data.ragged import Ragged

ROOT = 0


@dataclass(frozen=True)
class AllowedNodes:
    """Per-prompt whitelists of trie nodes, those that lead to allowed items; K nodes in all, of B prompts.

    Attributes:
        key: [K] ``prompt * nodes + node``, ascending: one search serves all prompts.
        whole: [B] bool: every node counts, the prompt has no such choice.
        nodes: of the trie.
        prompt: [D] whose nodes are asked for, row by row.
    """

    key: Tensor
    whole: Tensor
    nodes: int
    prompt: Tensor

    def of(self, prompt: Tensor) -> AllowedNodes:
        """For rows of other prompts: [D] of those that this one's rows belong to."""
        return replace(self, prompt=self.prompt[prompt])

    def holds(self, node: Tensor) -> Tensor:
        """[D, ...] nodes -> [D, ...] bool: the node leads to one of its prompt's items."""
        prompt = self.prompt.view(-1, *(1,) * (node.dim() - 1))
        wanted = prompt * self.nodes + node
        place = torch.searchsorted(self.key, wanted).clamp(max=len(self.key) - 1)
        return (self.key[place] == wanted) | self.whole[prompt]


@dataclass(frozen=True)
class Trie:
    """Tables on one device.

    Attributes:
        start: [nodes] first edge of a node.
        count: [nodes] its edges; 0 at a leaf.
        token: [edges] token of an edge.
        item: [nodes] item that ends here (the lowest of those with equal rows), -1 elsewhere.
        leaf: [roots, items] where an item ends below a root.
        fanout: the largest count at every depth, from the roots on.
    """

    start: Tensor
    count: Tensor
    token: Tensor
    item: Tensor
    leaf: Tensor
    fanout: tuple[int, ...]

    @property
    def roots(self) -> int:
        """Trees of the forest; their roots are the first nodes."""
        return len(self.leaf)

    @cached_property
    def parent(self) -> Tensor:
        """[nodes] the node above, a root's is itself."""
        above = torch.arange(len(self.count), device=self.count.device).repeat_interleave(self.count)
        return torch.cat([torch.arange(self.roots, device=above.device), above])

    @cached_property
    def level(self) -> Tensor:
        """[nodes] tokens from the root to a node."""
        level, node = torch.zeros_like(self.count), torch.arange(len(self.count), device=self.count.device)
        for _ in range(self.depth):
            level += node >= self.roots
            node = self.parent[node]
        return level

    @cached_property
    def root(self) -> Tensor:
        """[nodes] the root above a node, a root's is itself."""
        node = torch.arange(len(self.count), device=self.count.device)
        for _ in range(self.depth):
            node = self.parent[node]
        return node

    @cached_property
    def leaves(self) -> Tensor:
        """[nodes] distinct responses that end at a node or below it."""
        node = (self.count == 0).nonzero().squeeze(1)
        total = torch.zeros_like(self.count)
        one = torch.ones_like(node)
        for _ in range(self.depth):
            total.scatter_add_(0, node, torch.where(node >= self.roots, one, 0))
            node = self.parent[node]
        return total.scatter_add_(0, self.root[(self.count == 0).nonzero().squeeze(1)], one)

    @cached_property
    def canonical(self) -> NDArray[np.int64]:
        """[items] what a response that names an item stands for: the lowest of the items with that name."""
        lowest: NDArray[np.int64] = self.item[self.leaf[0]].cpu().numpy()
        return lowest

    def widest(self, step: int, slate_size: int = 1) -> int:
        """The largest count of a node that ``step`` tokens may have led to: with slates a new item may begin anywhere,
        and a response that starts behind given tokens is deeper than ``step``.
        """
        return max(self.fanout[step:] if slate_size == 1 else self.fanout)

    def tokens(self, edge: Tensor) -> Tensor:
        """[...] edges -> [...] their tokens; of many edges in a third of the time of ``token[edge]`` on a CPU."""
        return self.token.index_select(0, edge.flatten()).view_as(edge)

    def child(self, edge: Tensor) -> Tensor:
        """[...] edges -> [...] the nodes that they lead to."""
        return edge + self.roots

    def paths(self, item: Tensor, root: Tensor | int = ROOT) -> tuple[Tensor, Tensor]:
        """What spells items below a root: [...] -> [..., depth] tokens and the nodes they are chosen at, -1 after the
        end.
        """
        node = self.leaf[root, item]
        tokens, nodes = [], []
        for _ in range(self.depth):
            inside = node >= self.roots
            tokens.append(torch.where(inside, self.token[node - self.roots], -1))
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

    def allowed(self, items: Tensor, root: Tensor) -> AllowedNodes:
        """[B, N] items, -1 for none, and [B] roots -> the nodes below these roots that lead to the items.

        A row without any item leaves the choice open: there every node counts.
        """
        prompt = torch.arange(len(items), device=items.device)
        node = torch.where(items >= 0, self.leaf[root.unsqueeze(1), items.clamp(min=0)], ROOT)
        keys = [(prompt * len(self.count)).unsqueeze(1)]  # of the root, which no edge leads to, so that no row is empty
        for _ in range(self.depth):
            keys.append(keys[0] + torch.where(node >= self.roots, node, ROOT))
            node = self.parent[node]
        return AllowedNodes(torch.cat(keys, 1).unique(), (items < 0).all(1), len(self.count), prompt)

    def edges(self, node: Tensor, width: int, allowed: AllowedNodes | None = None) -> tuple[Tensor, Tensor]:
        """Edges that leave a node.

        Args:
            node: [...] nodes.
            width: at least the largest count among them, such as ``fanout[depth]``.
            allowed: only edges to these nodes count; its rows are those of ``node``.

        Returns:
            [..., width] edge numbers (0 where there is none) and [..., width] bool, True where there is one.
        """
        column = torch.arange(width, device=node.device)
        exists = column < self.count[node].unsqueeze(-1)
        edge = torch.where(exists, self.start[node].unsqueeze(-1) + column, 0)
        return edge, exists if allowed is None else exists & allowed.holds(self.child(edge))

    def step(self, node: Tensor, token: Tensor) -> Tensor:
        """[...] nodes and [...] tokens -> [...] nodes behind them, -1 where no such edge exists (or the node is -1)."""
        width = int(self.count.max())
        edge, exists = self.edges(node.clamp(min=0), width)
        match = exists & (self.token[edge] == token.unsqueeze(-1)) & (node >= 0).unsqueeze(-1)
        found = torch.where(match, self.child(edge), -1)
        return found.max(dim=-1).values

    def walk(self, tokens: Tensor, length: Tensor) -> Tensor:
        """[N, R] responses and [N] their lengths -> [N] items that they spell below the first root, -1: none."""
        node = torch.zeros_like(length)
        for position in range(tokens.shape[1]):
            node = torch.where(position < length, self.step(node, tokens[:, position]), node)
        return torch.where(node >= 0, self.item[node.clamp(min=0)], -1)


def build_trie(*rows: Ragged) -> Trie:
    """A trie of token rows, a root for each of ``rows``; equal rows below a root share a leaf.

    Args:
        rows: [items] responses that name the items, one kind after the other.

    Raises:
        ValueError: a row is empty, or a prefix of another below its root: its end would not be a leaf.
    """
    roots, items = len(rows), len(rows[0])
    if items == 0 or any(len(part) != items or part.lengths.min() == 0 for part in rows):
        raise ValueError("every response needs at least one token")
    depth = max(int(part.lengths.max()) for part in rows)
    padded = np.full((roots * items, depth), -1, np.int64)
    for number, part in enumerate(rows):
        block = part.padded(-1)
        padded[number * items : (number + 1) * items, : block.shape[1]] = block
    root = np.repeat(np.arange(roots), items)
    order = np.lexsort((*padded.T[::-1], root))
    padded, node = padded[order], root[order]  # node of every sorted row, at the depth reached
    parents, tokens, fanout, total = [], [], [], roots
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
    leaf = np.empty(len(order), np.int64)
    leaf[order] = node
    return _tables(np.concatenate(parents), np.concatenate(tokens), leaf.reshape(roots, items), total, tuple(fanout))


def _tables(
    parent: NDArray[np.int64], token: NDArray[np.int64], leaf: NDArray[np.int64], total: int, fanout: tuple[int, ...]
) -> Trie:
    count = np.bincount(parent, minlength=total)
    if count[leaf].any():
        raise ValueError("a response is a prefix of another")
    roots, items = leaf.shape
    item = np.full(total, items, np.int64)
    # An assignment would leave any one of equal rows. A value for every index: where minimum.at has to broadcast
    # values, numpy 2.4.6 reads past their end.
    np.minimum.at(item, leaf.ravel(), np.tile(np.arange(items), roots))
    item[item == items] = -1
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    return Trie(
        torch.from_numpy(start),
        torch.from_numpy(count),
        torch.from_numpy(np.ascontiguousarray(token)),
        torch.from_numpy(item),
        torch.from_numpy(leaf),
        fanout,
    )
