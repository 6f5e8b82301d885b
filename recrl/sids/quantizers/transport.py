"""The cheapest assignment of points to clusters whose sizes are bounded, exactly.

It is a transportation problem, and K clusters are few beside N points, so it is solved in the space of cluster prices:

1. Search prices p (a point goes to the cluster with the smallest cost + p) so that sizes nearly fit: ascent on the
   dual.
2. Move what is still too much along shortest paths between clusters. A step a -> b costs what the cheapest member of
   ``a`` loses by going to ``b``, so a path is found on a graph of K + 1 nodes however many points there are (successive
   shortest paths; Ahuja, Magnanti and Orlin, "Network Flows", chapter 9). Optimal whatever prices step 1 hands over.

A general minimum-cost-flow solver sees N x K arcs instead: k-means-constrained took 88 s for one level of Amazon Toys
(11,924 x 256, one thread) where this takes 5 s, for the same kind of optimum.

Letters: N points, K clusters. The extra node K is the sink, where ``flow[k]`` between ``low`` and ``high`` arrives from
k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from recrl.data.rows import chunks
from recrl.sids.quantizers import Codes, Matrix
from recrl.sids.quantizers.residual import CHUNK_ROWS

Prices = NDArray[np.float64]
Costs = Callable[[slice | NDArray[np.int64]], Matrix]
"""Rows -> [rows, K] float32 costs; asked for again rather than held where N x K is large."""

PATIENCE_ROUNDS = 15
GOOD_ENOUGH = 0.25  # misplaced points a cluster; step 2 then takes less time than another round of step 1


def assign(costs: Costs, rows: int, low: int, high: int, prices: Prices, max_rounds: int) -> tuple[Codes, Prices]:
    """[N] clusters with ``low`` to ``high`` members each at the smallest total cost, and the prices that prove it.

    Args:
        prices: [K] where to start: zeros, or those of a similar problem.
        max_rounds: of step 1; more of them leave less to step 2 and change nothing else.
    """
    size = len(prices)
    assert low * size <= rows <= high * size, (low, high, size, rows)
    prices = search_prices(costs, rows, low, high, prices, max_rounds)
    labels = cheapest(costs, rows, prices)
    repair = _Repair(costs, labels, low, high, prices)
    repair.run()
    return repair.labels.astype(np.int32), -repair.potential[:-1] + repair.potential[-1]


def cheapest(costs: Costs, rows: int, prices: Prices) -> NDArray[np.int64]:
    """[N] the cluster with the smallest cost + price, in float64 so that step 2 starts from a true optimum."""
    labels = np.empty(rows, np.int64)
    for part in chunks(rows, CHUNK_ROWS):
        labels[part] = (costs(part) + prices).argmin(axis=1)
    return labels


def search_prices(costs: Costs, rows: int, low: int, high: int, prices: Prices, max_rounds: int) -> Prices:
    """Ascent on the concave dual with a step size a cluster (Rprop), keeping the prices with the least misfit."""
    sample = np.sort(costs(slice(0, min(rows, CHUNK_ROWS))), axis=1)
    second = min(1, sample.shape[1] - 1)
    step = np.full(len(prices), max(float(np.median(sample[:, second] - sample[:, 0])) / 4, 1e-12))
    before = np.zeros(len(prices))
    over = _misfit(costs, rows, low, high, prices)
    if prices.any():
        # Centroids may have moved so far that the prices handed over are worse than none.
        over_unpriced = _misfit(costs, rows, low, high, np.zeros(len(prices)))
        if np.abs(over_unpriced).sum() < np.abs(over).sum():
            prices, over = np.zeros(len(prices)), over_unpriced
    best, best_misfit, best_round = prices, np.abs(over).sum(), 0
    for number in range(max_rounds):
        if best_misfit <= len(prices) * GOOD_ENOUGH or number - best_round >= PATIENCE_ROUNDS:
            break
        direction = np.sign(over)
        step *= np.where(direction * before > 0, 1.3, np.where(direction * before < 0, 0.5, 1.0))
        before = direction
        moved = prices + step * direction
        # A price that crosses 0 stops there: the bound changes at 0.
        prices = np.where(prices * moved < 0, 0.0, moved)
        over = _misfit(costs, rows, low, high, prices)
        misfit = np.abs(over).sum()
        if misfit < best_misfit:
            best, best_misfit, best_round = prices, misfit, number
    return best


def _misfit(costs: Costs, rows: int, low: int, high: int, prices: Prices) -> NDArray[np.int64]:
    """[K] members beyond the bound that binds: high where the price is positive, low where negative, either where 0."""
    narrow = prices.astype(np.float32)
    count = np.zeros(len(prices), np.int64)
    for part in chunks(rows, CHUNK_ROWS):
        count += np.bincount((costs(part) + narrow).argmin(axis=1), minlength=len(prices))
    return count - np.where(prices > 0, high, np.where(prices < 0, low, np.clip(count, low, high)))


@dataclass
class _Repair:
    """Step 2. ``potential`` [K + 1] is minus the prices, the sink's last; reduced costs of all open arcs stay >= 0."""

    costs: Costs
    labels: NDArray[np.int64]
    low: int
    high: int
    prices: Prices

    def __post_init__(self) -> None:
        size = len(self.prices)
        count = np.bincount(self.labels, minlength=size)
        self.potential = np.append(-self.prices, 0.0)
        by_price = np.where(self.prices > 0, self.high, self.low)
        self.flow = np.where(self.prices == 0, np.clip(count, self.low, self.high), by_price)
        self.excess = np.append(count - self.flow, self.flow.sum() - len(self.labels))
        self.move_cost = np.full((size + 1, size + 1), np.inf)  # [from, to]; what its cheapest member loses
        self.mover = np.zeros((size, size), np.int64)  # the point that moves
        order = np.argsort(self.labels, kind="stable")
        self.members = np.split(order, np.cumsum(count)[:-1])
        if not self.excess.any():
            return
        for cluster in range(size):
            self._look_at(cluster)
            self._look_at_sink(cluster)

    def run(self) -> None:
        """Move one unit at a time from a cluster with too much to one with too little."""
        while (self.excess > 0).any():
            path = self._shortest_path()
            self.excess[path[0]] -= 1
            self.excess[path[-1]] += 1
            sink = len(self.prices)
            moves = [(a, b, self.mover[a, b]) for a, b in pairwise(path) if sink not in (a, b)]
            for source, target, point in moves:
                self.labels[point] = target
                self.members[source] = self.members[source][self.members[source] != point]
                self.members[target] = np.append(self.members[target], point)
            for a, b in pairwise(path):
                if b == sink:
                    self.flow[a] += 1
                elif a == sink:
                    self.flow[b] -= 1
            for node in path:
                if node != sink:
                    self._look_at(node)
                    self._look_at_sink(node)

    def _look_at(self, cluster: int) -> None:
        members = self.members[cluster]
        size = len(self.prices)
        if len(members) == 0:
            self.move_cost[cluster, :size] = np.inf
            return
        table = self.costs(members).astype(np.float64)
        loss = table - table[:, [cluster]]
        first = loss.argmin(axis=0)
        self.mover[cluster] = members[first]
        self.move_cost[cluster, :size] = loss[first, np.arange(size)]
        self.move_cost[cluster, cluster] = np.inf

    def _look_at_sink(self, cluster: int) -> None:
        sink = len(self.prices)
        self.move_cost[cluster, sink] = 0.0 if self.flow[cluster] < self.high else np.inf
        self.move_cost[sink, cluster] = 0.0 if self.flow[cluster] > self.low else np.inf

    def _shortest_path(self) -> list[int]:
        """Dijkstra from all nodes with too much to the nearest with too little; updates the potentials."""
        distance = np.where(self.excess > 0, 0.0, np.inf)
        open_distance = distance.copy()
        parent = np.full(len(distance), -1)
        while True:
            node = int(open_distance.argmin())
            reached = distance[node]
            assert np.isfinite(reached), "sizes that fit are always within reach"
            if self.excess[node] < 0:
                break
            open_distance[node] = np.inf
            # Rounding can leave a reduced cost a hair below 0.
            reduced = np.maximum(self.move_cost[node] + self.potential[node] - self.potential, 0.0)
            through = reached + reduced
            nearer = through < distance
            distance[nearer] = through[nearer]
            open_distance[nearer] = through[nearer]
            parent[nearer] = node
        self.potential += np.minimum(distance, reached)
        path = [node]
        while parent[path[-1]] >= 0:
            path.append(int(parent[path[-1]]))
        return path[::-1]
