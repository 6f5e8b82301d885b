"""How the users of a made-up marketplace answer to items that they are shown.

A log records the one item that a user takes next, drawn from p(. | history, group, time). A visitor has
Poisson(appeal) wishes, each drawn from the same p. A wish for item k is met by k itself, by another item of its product
line with probability ``near_line``, and by another one of its category with probability ``near_category``. He clicks on
what meets a wish:

    P(click j) = 1 - exp(-appeal novelty(j) bait(j) w(j))
    w(j) = p(j) + near_line (p(line of j) - p(j)) + near_category (p(category of j) - p(line of j))

so the order of the items by P(click) is the order by p where the last four options are at their defaults. An item that
is not on sale is never clicked. What is clicked is watched for a gamma-distributed time (shape 2) whose mean is
``watch_s`` x (0.2 + 0.8 liking), times 0.1 in a clickbait category; liking is the group's taste for the category over
its largest. A click becomes a comment with probability ``comments`` x liking. What is not clicked is rejected with
probability ``rejections`` x (1 - liking).
Letters: V visitors, N items, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recrl.data.marketplace import Floats, Ints, Market
from recrl.parts import Options

Flags = NDArray[np.bool_]

BAIT_APPEAL = 3.0
BAIT_WATCH = 0.1
WATCH_SHAPE = 2.0


class BehaviourOptions(Options):
    appeal: float = Field(8.0, gt=0)
    """Wishes of a visit on average. Well below 1 clicks are as sparse as in a log: few groups have any."""
    near_line: float = Field(0.0, ge=0, le=1)
    """Chance that a wish is met by another item of the same product line."""
    near_category: float = Field(0.0, ge=0, le=1)
    """The same of the other items of its category."""
    rejections: float = Field(0.0, ge=0, le=1)
    """Chance that an item of a category that the user does not care for is rejected; it falls with liking."""
    cold_appeal: float = Field(1.0, ge=0)
    """Factor on the appeal of items that came on sale late; their share is the data's ``late_share``."""
    clickbait: float = Field(0.0, ge=0, le=1)
    """Share of the categories whose items are clicked three times as readily, and watched a tenth as long."""
    watch_s: float = Field(60.0, gt=0)
    """Mean seconds that an item of the favourite category is watched."""
    comments: float = Field(0.1, ge=0, le=1)
    """Chance of a comment on a click in the favourite category."""


@dataclass(frozen=True)
class Answers:
    """[V, N] each: what every visitor would answer to every item."""

    clicked: Flags
    watch_s: NDArray[np.float32]
    commented: Flags
    rejected: Flags


def bait_categories(market: Market, share: float) -> Flags:
    """[C] bool: the rounded share of the categories, the first ones; their order says nothing."""
    return np.arange(market.options.categories) < round(share * market.options.categories)


def click_probability(market: Market, truth: Floats, now: Ints, options: BehaviourOptions) -> Floats:
    """[V, N] from [V, N] next-item probabilities and [V] times."""
    wishes = truth
    if options.near_line or options.near_category:
        by_line, by_category = totals(truth, market.line), totals(truth, market.category)
        wishes = truth + options.near_line * (by_line - truth) + options.near_category * (by_category - by_line)
    bait = np.where(bait_categories(market, options.clickbait)[market.category], BAIT_APPEAL, 1.0)
    novelty = np.where(market.launch > 0, options.cold_appeal, 1.0)
    on_sale = market.launch <= now[:, None]
    return np.asarray(-np.expm1(-options.appeal * novelty * bait * wishes) * on_sale)


def totals(values: Floats, label: Ints) -> Floats:
    """[V, N] sums of [V, N] values over the items with the same [N] label."""
    order = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.diff(label[order], prepend=-1))
    sums = np.add.reduceat(values[:, order], starts, axis=1)
    _, place = np.unique(label, return_inverse=True)
    return np.asarray(sums[:, place])


def answers(
    market: Market, truth: Floats, group: Ints, now: Ints, options: BehaviourOptions, rng: np.random.Generator
) -> Answers:
    """Draw what visitors answer; one answer a visitor and item, however often it is shown."""
    chance = click_probability(market, truth, now, options)
    liking = market.taste[group] / market.taste[group].max(axis=1, keepdims=True)  # [V, C]
    bait = np.where(bait_categories(market, options.clickbait), BAIT_WATCH, 1.0)
    mean_s = (options.watch_s * (0.2 + 0.8 * liking) * bait)[:, market.category]
    liked = liking[:, market.category]
    draw = rng.random((3, *truth.shape))
    clicked = draw[0] < chance
    watch = np.where(clicked, rng.gamma(WATCH_SHAPE, size=truth.shape) * mean_s / WATCH_SHAPE, 0.0)
    commented = clicked & (draw[1] < options.comments * liked)
    rejected = ~clicked & (draw[2] < options.rejections * (1 - liked))
    return Answers(clicked, watch.astype(np.float32), commented, rejected)
