"""What visitors of the marketplace answer, against the stated probabilities; letters as in behaviour.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recrl.data.marketplace import Market, MarketOptions, build_market
from recrl.data.visitors import draw_visitors, truth
from recrl.environments.behaviour import Answers, BehaviourOptions, answers, click_probability

NOW = np.array([0])


def small_market() -> Market:
    """Six items: categories 0 0 0 1 1 1, lines 0 0 1 2 2 2; item 5 comes on sale at second 100."""
    market = build_market(MarketOptions(users=1, items=6, interactions=3, categories=2, groups=2, late_share=0))
    return replace(
        market,
        category=np.array([0, 0, 0, 1, 1, 1]),
        line=np.array([0, 0, 1, 2, 2, 2]),
        launch=np.array([0, 0, 0, 0, 0, 100]),
        taste=np.array([[0.8, 0.2], [0.5, 0.5]]),
    )


TRUTH = np.array([[0.4, 0.1, 0.2, 0.3, 0.0, 0.0]])


def chance(now: int = 200, **options: float) -> list[float]:
    return click_probability(small_market(), TRUTH, np.array([now]), BehaviourOptions(**options))[0].tolist()


def test_a_click_is_that_one_of_a_poisson_number_of_wishes_names_the_item() -> None:
    assert chance(appeal=2.0) == pytest.approx([1 - np.exp(-2 * p) for p in TRUTH[0]])


def test_a_wish_is_met_by_the_line_and_by_the_category_as_often_as_the_options_say() -> None:
    found = chance(appeal=1.0, near_line=0.5, near_category=0.1)
    wishes = [
        0.4 + 0.5 * 0.1 + 0.1 * 0.2,
        0.1 + 0.5 * 0.4 + 0.1 * 0.2,
        0.2 + 0.1 * 0.5,
        0.3,
        0.5 * 0.3,
        0.5 * 0.3,
    ]
    assert found == pytest.approx([1 - np.exp(-wish) for wish in wishes])


def test_what_is_not_on_sale_is_never_clicked() -> None:
    assert chance(now=99, near_line=1.0)[5] == 0
    assert chance(now=100, near_line=1.0)[5] > 0


def test_late_items_have_an_appeal_of_their_own() -> None:
    assert chance(near_line=1.0, appeal=1.0, cold_appeal=4.0)[5] == pytest.approx(1 - np.exp(-4 * 0.3))
    assert chance(near_line=1.0, appeal=1.0, cold_appeal=4.0)[4] == pytest.approx(1 - np.exp(-0.3))


def many(count: int = 40_000, **options: float) -> Answers:
    """Answers of as many visitors with the same truth, of group 0."""
    group, now = np.zeros(count, np.int64), np.full(count, 200)
    rng = np.random.default_rng(0)
    return answers(small_market(), np.repeat(TRUTH, count, 0), group, now, BehaviourOptions(**options), rng)


def test_answers_come_as_often_as_stated() -> None:
    given = many(appeal=1.0, rejections=0.5, comments=0.4)
    close = 5 * 0.5 / np.sqrt(40_000)
    clicks = 1 - np.exp(-TRUTH[0])
    liking = np.array([1, 1, 1, 0.25, 0.25, 0.25])
    assert given.clicked.mean(0) == pytest.approx(clicks, abs=close)
    assert given.commented.mean(0) == pytest.approx(clicks * 0.4 * liking, abs=close)
    assert given.rejected.mean(0) == pytest.approx((1 - clicks) * 0.5 * (1 - liking), abs=close)
    assert not (given.rejected & given.clicked).any()
    assert not (given.commented & ~given.clicked).any()


def test_watch_time_follows_liking_and_nothing_is_watched_without_a_click() -> None:
    given = many(appeal=3.0, watch_s=50.0)
    assert (given.watch_s[~given.clicked] == 0).all()
    seconds = [given.watch_s[given.clicked[:, item], item].mean() for item in (0, 3)]
    assert seconds == pytest.approx([50.0, 50.0 * (0.2 + 0.8 * 0.25)], rel=0.03)


def test_clickbait_is_clicked_more_and_watched_less() -> None:
    plain, bait = many(appeal=0.5), many(appeal=0.5, clickbait=0.5)  # half of two categories: the first
    assert bait.clicked[:, 0].mean() == pytest.approx(1 - np.exp(-3 * 0.5 * 0.4), abs=0.02)
    assert bait.watch_s[bait.clicked[:, 0], 0].mean() == pytest.approx(6.0, rel=0.05)
    assert (plain.clicked[:, 3:] == bait.clicked[:, 3:]).all()


def test_visitors_take_next_what_the_truth_says() -> None:
    options = MarketOptions(users=100, items=8, interactions=600, categories=2, groups=2, line_size=4, late_share=0.3)
    market = build_market(options)
    visitors = draw_visitors(market, 30_000, 5)
    p = truth(market, visitors)
    assert p.sum(1) == pytest.approx(1)
    taken = np.eye(8)[visitors.next_item]
    assert taken.mean(0) == pytest.approx(p.mean(0), abs=5 * 0.5 / np.sqrt(30_000))
    # Above what any other order of the same probabilities would give.
    assert (taken * p).sum(1).mean() == pytest.approx((p * p).sum(1).mean(), abs=0.01)
    assert visitors.history.lengths.min() >= 2
    assert visitors.history.lengths.mean() == pytest.approx(5, abs=0.01)
