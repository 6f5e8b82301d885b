"""The generator and the formulas of its truth must say the same; letters as in marketplace.py."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pydantic import ValidationError

from recrl.data.marketplace import MarketOptions, build_market, simulate, user_times
from recrl.data.optimum import best_metrics, group_belief, next_item_distribution, optimum, rank_of, step_likelihood
from recrl.data.prepare import build
from recrl.data.ragged import Ragged
from recrl.errors import DataError

TINY = MarketOptions(
    users=60_000, items=6, interactions=180_000, categories=2, groups=2, line_size=3, late_share=0, drift=0.3
)


def test_drawn_items_follow_the_stated_distribution_of_first_and_second_item():
    market = build_market(TINY)
    offsets, times = user_times(TINY)
    items = simulate(market, offsets, times).astype(np.int64)
    first, second = items[offsets[:-1]], items[offsets[:-1] + 1]
    nobody, none = Ragged.from_lists([[]]), [np.array([0])]
    truth = next_item_distribution(market, group_belief(market, nobody, none), np.array([-1]), np.array([0]))[0]
    share = np.bincount(first, minlength=6) / len(first)
    assert np.abs(share - truth).max() < 5 * np.sqrt(0.25 / len(first))
    for item in range(6):
        after = second[first == item]
        belief = group_belief(market, Ragged.from_lists([[item]]), [np.array([0, 0])])
        truth = next_item_distribution(market, belief, np.array([item]), np.array([0]))[0]
        share = np.bincount(after, minlength=6) / len(after)
        assert np.abs(share - truth).max() < 5 * np.sqrt(0.25 / len(after))


def test_the_belief_equals_the_sum_over_all_paths_of_groups():
    options = TINY.model_copy(update={"groups": 3, "late_share": 0.5, "items": 12, "users": 5, "interactions": 60})
    market = build_market(options)
    offsets, times = user_times(options)
    items = simulate(market, offsets, times).astype(np.int64)
    length = 4
    history, clock = items[:length], times[: length + 1]
    last = np.concatenate([[-1], history[:-1]])
    likelihood = step_likelihood(market, history, last, clock[:-1])  # [length, G]
    move = (1 - options.drift) * np.eye(3) + options.drift * market.group_share[None, :]
    by_path = np.zeros(3)
    for path in itertools.product(range(3), repeat=length + 1):
        chance = market.group_share[path[0]]
        for step in range(length):
            chance *= likelihood[step, path[step]] * move[path[step], path[step + 1]]
        by_path[path[-1]] += chance
    belief = group_belief(market, Ragged.from_lists([history.tolist()]), [clock])[0]
    np.testing.assert_allclose(belief, by_path / by_path.sum(), atol=1e-12)


def test_the_distribution_sums_to_one_and_agrees_with_the_likelihood_of_single_items():
    options = MarketOptions(users=20, items=30, interactions=200, categories=3, late_share=0.4)
    market = build_market(options)
    rows = 30
    rng = np.random.default_rng(0)
    now = rng.integers(0, options.horizon_days * 86_400, rows)
    last = rng.integers(-1, 30, rows)
    belief = rng.dirichlet(np.ones(options.groups), rows)
    truth = next_item_distribution(market, belief, last, now)
    np.testing.assert_allclose(truth.sum(axis=1), 1, atol=1e-12)
    assert (truth[market.launch[None, :] > now[:, None]] == 0).all()
    items = np.array([rng.choice(30, p=row) for row in truth])
    single = (step_likelihood(market, items, last, now) * belief).sum(axis=1)
    np.testing.assert_allclose(truth[np.arange(rows), items], single, atol=1e-12)


def test_the_optimum_is_reached_on_average():
    options = {"users": 20_000, "interactions": 160_000, "items": 300, "late_share": 0.3, "optimum_rows": 20_000}
    best = build("synthetic", None, options=options).meta["optimum"]["test"]
    assert best["rows"] == 20_000
    for name in ("hr@1", "hr@10", "ndcg@10"):
        assert best[name] == pytest.approx(best["expected"][name], abs=4 * 0.5 / np.sqrt(20_000))


def test_the_default_leaves_room_between_popularity_and_the_optimum():
    data = build("synthetic", None)
    counts = np.bincount(data.train.items.values, minlength=500)
    popular = np.argsort(-counts, kind="stable")[:10]
    by_popularity = np.isin(data.test.targets.values, popular).mean()
    assert by_popularity < 0.2
    assert data.meta["optimum"]["test"]["expected"]["hr@10"] > 0.5
    assert len(set(data.catalog.titles)) == 500
    summary = data.meta["summary"]
    assert (summary["users"], summary["items"], summary["interactions"]) == (2_000, 500, 20_000)


def test_nothing_is_drawn_before_it_is_on_sale_and_late_items_are_drawn():
    options = MarketOptions(users=500, items=100, interactions=5_000, late_share=0.5)
    market = build_market(options)
    offsets, times = user_times(options)
    items = simulate(market, offsets, times)
    assert (market.launch[items] <= times).all()
    assert (market.launch[items] > 0).any()
    assert (np.diff(times) > 0)[np.setdiff1d(np.arange(len(times) - 1), offsets[1:-1] - 1)].all()


def test_a_seed_decides_everything():
    first, again, other = (
        build("synthetic", None, options={"seed": seed, "users": 50, "interactions": 400}) for seed in (1, 1, 2)
    )
    assert first.train.items.values.tolist() == again.train.items.values.tolist()
    assert first.catalog == again.catalog
    assert first.train.items.values.tolist() != other.train.items.values.tolist()


def test_the_optimum_can_be_computed_again_from_what_is_stored():
    data = build("synthetic", None, options={"users": 300, "interactions": 3_000})
    assert optimum(data.meta, data.test) == data.meta["optimum"]["test"]
    part = data.test.select(np.arange(10))
    assert optimum(data.meta, part, ks=(3,))["rows"] == 10


def test_the_optimum_of_cut_histories_is_refused():
    data = build("synthetic", None, split="chronological", options={"users": 50, "interactions": 400})
    assert data.meta["optimum"]["test"]["rows"] == len(data.test)
    with pytest.raises(DataError, match="chronological"):
        optimum(data.meta, data.test)


def test_extra_interactions_are_for_training_alone_and_change_nothing_else():
    options = {"users": 60, "interactions": 480}
    plain = build("synthetic", None, options=options)
    more = build("synthetic", None, options=options | {"extra_interactions": 1_000})
    for name in ("valid", "test"):
        assert more.split(name).users.tolist() == plain.split(name).users.tolist()
        assert more.split(name).history.values.tolist() == plain.split(name).history.values.tolist()
        assert more.split(name).targets.values.tolist() == plain.split(name).targets.values.tolist()
    assert more.catalog == plain.catalog
    assert more.meta["optimum"] == plain.meta["optimum"]
    kept = len(plain.train)
    assert len(more.train) == kept + 125  # eight interactions a user, as in the log
    assert more.train.items.values[: plain.train.items.offsets[-1]].tolist() == plain.train.items.values.tolist()
    assert len(more.train.items.values) == len(plain.train.items.values) + 1_000
    with pytest.raises(DataError, match="for training alone"):
        build("synthetic", None, split="chronological", options=options | {"extra_interactions": 1_000})


def test_ranks_break_ties_by_item_index():
    scores = np.array([[0.1, 0.4, 0.4, 0.1], [0.2, 0.2, 0.2, 0.4]])
    assert rank_of(scores, np.array([2, 1])).tolist() == [2, 3]


def test_more_ks_than_items_are_fine_and_cover_everything():
    market = build_market(TINY)
    best = best_metrics(market, Ragged.from_lists([[0, 1]]), [np.array([0, 0, 0])], np.array([2]), ks=(6, 50))
    assert best["hr@50"] == 1
    assert best["expected"]["hr@6"] == pytest.approx(1)
    assert best_metrics(market, Ragged.from_lists([]), [], np.zeros(0, np.int64)) == {}


@pytest.mark.parametrize(
    "wrong", [{"users": 10, "interactions": 29}, {"transition": 0.7, "taste": 0.5}, {"categories": 9, "items": 8}]
)
def test_options_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(ValidationError):
        MarketOptions(**wrong)
