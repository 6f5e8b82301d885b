"""The best reachable HR@K and NDCG@K on a made-up marketplace.

The predictor knows the generator (``marketplace.py``) and a user's history with its times, not the user's hidden group.
It holds an exact belief over the groups (the forward recursion of a hidden Markov model) and ranks all items by the
exact next-item distribution. No predictor has a higher expected HR@K or NDCG@K.
Letters: R rows, G groups, C categories, N items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.data.dataset import Examples
from recrl.data.marketplace import NEIGHBOUR_SHARES, Floats, Ints, Market, MarketOptions, build_market, user_times
from recrl.data.ragged import Ragged
from recrl.errors import DataError

KS = (1, 5, 10, 20)
CHUNK_CELLS = 4_000_000  # of the [R, N] distribution held at once


def optimum(meta: Mapping[str, Any], examples: Examples, ks: Sequence[int] = KS) -> dict[str, Any]:
    """The same for examples of a prepared data set, which may be a part of its valid or test.

    Args:
        meta: the data set's ``dataset.json``: it holds options and seed.

    Raises:
        DataError: not synthetic, or histories are cut, so the target's time is not known.
    """
    if meta.get("format") != "synthetic" or meta.get("split") != "leave-one-out":
        raise DataError(
            f"a data set of format {meta.get('format')!r}, split {meta.get('split')!r}",
            why="the optimum is known for synthetic data with whole histories",
            fix="prepare synthetic data with --split leave-one-out",
        )
    options = MarketOptions.model_validate(meta["options"])
    offsets, times = user_times(options)
    at = offsets[examples.users]
    windows = [times[start : start + count + 1] for start, count in zip(at, examples.history.lengths, strict=True)]
    return best_metrics(build_market(options), examples.history, windows, examples.targets.values.astype(np.int64), ks)


def best_metrics(
    market: Market, history: Ragged, times: Sequence[Ints], targets: Ints, ks: Sequence[int] = KS
) -> dict[str, Any]:
    """Metrics of ranking by the true distribution.

    Args:
        history: [R] rows of items, oldest first.
        times: [R] arrays, one longer than the row's history: the target's time is the last.
        targets: [R].

    Returns:
        ``hr@k`` and ``ndcg@k`` as they came out on these targets; under ``expected`` their means over the target's
        distribution; ``rows``. Empty where there is no row.
    """
    if len(targets) == 0:
        return {}
    belief = group_belief(market, history, times)
    last = np.array([row[-1] if len(row) else -1 for row in history], np.int64)
    now = np.array([row[-1] for row in times], np.int64)
    step = max(1, CHUNK_CELLS // len(market.weight))
    ranks, masses = [], []
    for start in range(0, len(targets), step):
        part = slice(start, start + step)
        truth = next_item_distribution(market, belief[part], last[part], now[part])
        ranks.append(rank_of(truth, targets[part]))
        kept = min(max(ks), truth.shape[1])
        masses.append(-np.sort(-np.partition(truth, truth.shape[1] - kept, axis=1)[:, -kept:], axis=1))
    return _metrics(np.concatenate(ranks), np.concatenate(masses), ks)


def group_belief(market: Market, history: Ragged, times: Sequence[Ints]) -> Floats:
    """[R, G] p(group at the next step | history): exact, by the forward recursion."""
    options = market.options
    order = np.argsort(-history.lengths, kind="stable")
    lengths = history.lengths[order]
    belief = np.tile(market.group_share, (len(order), 1))
    clock = [times[row] for row in order]
    previous = np.zeros(0, np.int64)
    for step in range(int(lengths.max(initial=0))):
        active = int(np.searchsorted(-lengths, -step, side="left"))
        items = history.values[history.offsets[order[:active]] + step].astype(np.int64)
        now = np.array([row[step] for row in clock[:active]], np.int64)
        last = previous[:active] if step else np.full(active, -1)
        known = belief[:active] * step_likelihood(market, items, last, now)
        known /= known.sum(axis=1, keepdims=True)
        belief[:active] = (1 - options.drift) * known + options.drift * market.group_share
        previous = items
    out = np.empty_like(belief)
    out[order] = belief
    return out


def step_likelihood(market: Market, items: Ints, last: Ints, now: Ints) -> Floats:
    """[R, G] p(item | last item, group, time); ``last`` is -1 at a first step."""
    shares = _shares(market, last, now)
    low, high = market.in_category.on_sale(market.category[items], now)
    by_taste = market.taste[:, market.category[items]].T * (market.weight[items] / (high - low))[:, None]
    low, high = market.overall.on_sale(np.zeros_like(items), now)
    follows = (market.neighbours[last] == items[:, None]) @ NEIGHBOUR_SHARES
    rest = shares["transition"] * follows + shares["popular"] * market.weight[items] / (high - low)
    return np.asarray(shares["taste"][:, None] * by_taste + rest[:, None])


def next_item_distribution(market: Market, belief: Floats, last: Ints, now: Ints) -> Floats:
    """[R, N] p(item | history, time); rows sum to 1."""
    shares = _shares(market, last, now)
    rows, num_categories = len(last), market.options.categories
    on_sale = market.launch <= now[:, None]
    sections = np.tile(np.arange(num_categories), (rows, 1))
    low, high = market.in_category.on_sale(sections.ravel(), np.repeat(now, num_categories))
    density = (belief @ market.taste) / (high - low).reshape(rows, num_categories) * shares["taste"][:, None]
    low, high = market.overall.on_sale(np.zeros_like(now), now)
    density += (shares["popular"] / (high - low))[:, None]
    truth = density[:, market.category] * market.weight * on_sale
    for edge, share in enumerate(NEIGHBOUR_SHARES):
        wanted = market.neighbours[last, edge]
        ready = market.launch[wanted] <= now
        truth[np.arange(rows), wanted] += shares["transition"] * share * ready
    return np.asarray(truth)


def rank_of(scores: Floats, targets: Ints) -> Ints:
    """[R] rank of the target from 1, highest score first, equal scores by item index."""
    own = scores[np.arange(len(targets)), targets][:, None]
    above = (scores > own).sum(axis=1)
    tied_before = ((scores == own) & (np.arange(scores.shape[1]) < targets[:, None])).sum(axis=1)
    return np.asarray(1 + above + tied_before)


def _shares(market: Market, last: Ints, now: Ints) -> dict[str, Floats]:
    """[R] weights of the three parts of the mixture; see ``marketplace.py``."""
    options = market.options
    popular = 1 - options.transition - options.taste
    lost = (market.launch[market.neighbours[last]] > now[:, None]) @ NEIGHBOUR_SHARES
    first = last < 0
    scale = np.where(first, 1 / (1 - options.transition), 1.0)
    return {
        "transition": np.where(first, 0.0, options.transition),
        "taste": options.taste * scale + np.where(first, 0.0, options.transition * lost),
        "popular": popular * scale,
    }


def _metrics(ranks: Ints, masses: NDArray[np.float64], ks: Sequence[int]) -> dict[str, Any]:
    """``ranks`` [R]; ``masses`` [R, max k], the largest probabilities in falling order."""
    gains = 1 / np.log2(np.arange(2, masses.shape[1] + 2))
    realised: dict[str, Any] = {}
    expected: dict[str, float] = {}
    for k in ks:
        hit = ranks <= k
        realised[f"hr@{k}"] = float(hit.mean())
        realised[f"ndcg@{k}"] = float(np.where(hit, 1 / np.log2(ranks + 1), 0.0).mean())
        expected[f"hr@{k}"] = float(masses[:, :k].sum(axis=1).mean())
        expected[f"ndcg@{k}"] = float((masses[:, :k] * gains[:k]).sum(axis=1).mean())
    return realised | {"expected": expected, "rows": len(ranks)}
