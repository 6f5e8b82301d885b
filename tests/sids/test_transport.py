"""The balanced assignment against solvers of other kinds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, linear_sum_assignment, milp
from scipy.sparse import kron

from recrl.sids.quantizers import transport


def solve(table: np.ndarray, low: int, high: int, prices: np.ndarray | None = None, rounds: int = 100):
    table = np.asarray(table, np.float32)
    start = np.zeros(table.shape[1]) if prices is None else prices
    return transport.assign(lambda rows: table[rows], len(table), low, high, start, rounds)


def total(table: np.ndarray, labels: np.ndarray) -> float:
    return float(np.asarray(table, np.float64)[np.arange(len(table)), labels].sum())


def smallest_total(table: np.ndarray, low: int, high: int) -> float:
    """By integer programming."""
    rows, size = table.shape
    one_each = LinearConstraint(kron(np.eye(rows), np.ones((1, size))), 1, 1)
    sizes = LinearConstraint(kron(np.ones((1, rows)), np.eye(size)), low, high)
    found = milp(table.ravel(), constraints=[one_each, sizes], integrality=np.ones(table.size), bounds=(0, 1))
    return float(found.fun)


def test_a_crowd_is_split_by_who_loses_least():
    table = [[0, 5], [0, 1], [0, 9], [0, 2]]  # all want cluster 0; points 1 and 3 lose least
    labels, _ = solve(np.array(table), 2, 2)
    assert labels.tolist() == [0, 1, 0, 1]


def test_a_chain_of_moves_is_found():
    # From cluster 0 straight to 2 costs 50; over cluster 1, whose point goes on to 2, it costs 1 + 1.
    table = np.array([[0, 1, 50], [0, 1, 50], [9, 0, 1]])
    labels, _ = solve(table, 1, 1, rounds=0)
    assert total(table, labels) == 2
    assert labels[2] == 2


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 24),
    size=st.integers(1, 6),
    slack=st.integers(0, 2),
    levels=st.sampled_from([2, 5, 1000]),
    rounds=st.sampled_from([0, 3, 100]),
    seed=st.integers(0, 10**6),
)
def test_total_cost_is_the_smallest_there_is(rows, size, slack, levels, rounds, seed):
    rng = np.random.default_rng(seed)
    size = min(size, rows)
    table = rng.integers(0, levels, (rows, size)).astype(np.float64)  # few levels: many ties
    low, high = max(0, rows // size - slack), -(-rows // size) + slack
    prices = rng.integers(-3, 4, size).astype(np.float64)
    labels, _ = solve(table, low, high, prices, rounds)
    counts = np.bincount(labels, minlength=size)
    assert low <= counts.min()
    assert counts.max() <= high
    assert total(table, labels) == pytest.approx(smallest_total(table, low, high))


def test_agrees_with_the_hungarian_method_where_every_cluster_has_three_places():
    rng = np.random.default_rng(0)
    table = rng.random((90, 30)).astype(np.float32)
    labels, _ = solve(table, 3, 3)
    rows, columns = linear_sum_assignment(np.repeat(table, 3, axis=1))
    assert total(table, labels) == pytest.approx(
        float(np.repeat(table, 3, axis=1)[rows, columns].sum(dtype=np.float64))
    )


def test_prices_prove_the_assignment():
    table = np.random.default_rng(0).random((200, 8))
    labels, prices = solve(table, 24, 26)
    priced = np.asarray(np.float32(table), np.float64) + prices
    assert (priced[np.arange(200), labels] <= priced.min(axis=1) + 1e-9).all()
    counts = np.bincount(labels, minlength=8)
    assert (counts[prices > 1e-9] == 26).all()  # a price above 0 is paid only where a cluster is full
    assert (counts[prices < -1e-9] == 24).all()


def test_equal_costs_still_fill_every_cluster():
    labels, _ = solve(np.zeros((50, 7)), 6, 8)
    assert set(np.bincount(labels, minlength=7)) <= {6, 7, 8}
