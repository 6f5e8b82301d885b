"""A made-up marketplace whose true next-item distribution is known.

A user has a hidden taste group, which may change between two steps (drift). The next item is drawn from a mixture:

    p(j | last item i, group g, time t) = transition * T_t(j | i)
                                        + (taste + transition * lost_t(i)) * Q_t(j | g)
                                        + popular * P_t(j)

``T`` goes to five neighbours of the last item (the next three of its line, two of a companion line); a neighbour that
is not on sale yet loses its share ``lost`` to the taste draw. ``Q`` draws a category from the group's taste and an item
in it by popularity; ``P`` is popularity over all items. Popularity is Zipf's law over the items on sale; some come on
sale late, and are cold. A first item has no ``T``: the other two parts fill its share.
Letters: N items, C categories, G groups, M neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from recrl.parts import Options

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAY_S = 86_400
LINE_SUCCESSORS = (0.4, 0.2, 0.1)
COMPANIONS = (0.2, 0.1)
NEIGHBOUR_SHARES = np.array(LINE_SUCCESSORS + COMPANIONS)
MIN_LENGTH = 3


class MarketOptions(Options):
    """Sizes and shares. The defaults leave room above popularity and are learnt by a small model in a minute."""

    users: int = Field(2_000, ge=1)
    items: int = Field(500, ge=2)
    interactions: int = Field(20_000, ge=3)
    """Exact. At least three a user."""
    seed: int = Field(0, ge=0)
    categories: int = Field(12, ge=1)
    groups: int = Field(6, ge=1)
    line_size: int = Field(8, ge=1)
    """Items of a product line; they share brand and name."""
    transition: float = Field(0.45, ge=0, lt=1)
    taste: float = Field(0.45, gt=0, le=1)
    """What transition and taste leave is drawn by popularity."""
    taste_focus: float = Field(0.15, gt=0)
    """Dirichlet parameter of a group's categories; small: few categories a group."""
    zipf: float = Field(0.8, ge=0)
    drift: float = Field(0.05, ge=0, le=1)
    """Chance, between two steps, that the user's group is drawn anew."""
    late_share: float = Field(0.1, ge=0, lt=1)
    """Share of the items that come on sale in the second half of the time."""
    extra_interactions: int = Field(0, ge=0)
    """Interactions of further users, all of them for training; the others, and what is held out of theirs, stay the
    same. At least three a user, of whom there are as many as the log's mean length makes of them."""
    horizon_days: int = Field(365, ge=1)
    optimum_rows: int = Field(5_000, ge=0)
    """The optimum is computed on at most so many examples of valid, and of test, evenly spaced; 0: not at all."""

    @model_validator(mode="after")
    def _consistent(self) -> MarketOptions:
        if self.interactions < MIN_LENGTH * self.users:
            raise ValueError(f"{self.users} users need at least {MIN_LENGTH * self.users} interactions")
        if 0 < self.extra_interactions < MIN_LENGTH:
            raise ValueError(f"extra_interactions must be 0, or at least {MIN_LENGTH}: a user takes as many")
        if self.transition + self.taste > 1:
            raise ValueError("transition + taste must not pass 1")
        if self.categories > self.items:
            raise ValueError("a category needs an item")
        return self

    @property
    def extra_users(self) -> int:
        """Users of the extra interactions, who take as many items as the others on average."""
        if not self.extra_interactions:
            return 0
        return max(1, self.extra_interactions * self.users // self.interactions)


@dataclass(frozen=True)
class Market:
    """The items and the tastes.

    Attributes:
        category: [N] from 0.
        line: [N] product line, from 0; ``place``: [N] place in it.
        neighbours: [N, M] items that may follow.
        weight: [N] popularity, not normalised.
        launch: [N] second from which an item is on sale; 0 for most.
        taste: [G, C] rows sum to 1.
        group_share: [G] sums to 1.
    """

    options: MarketOptions
    category: Ints
    line: Ints
    place: Ints
    neighbours: Ints
    weight: Floats
    launch: Ints
    taste: Floats
    group_share: Floats
    in_category: Shelf
    overall: Shelf


@dataclass(frozen=True)
class Shelf:
    """Items sorted by (section, launch), so that those on sale at a time are a prefix of their section."""

    items: Ints
    keys: Ints
    starts: Ints
    cumulative: Floats
    span: int

    @classmethod
    def stock(cls, section: Ints, num_sections: int, launch: Ints, weight: Floats, span: int) -> Shelf:
        order = np.lexsort((launch, section))
        keys = section[order] * span + launch[order]
        starts = np.searchsorted(section[order], np.arange(num_sections))
        return cls(order, keys, starts, np.concatenate([[0.0], np.cumsum(weight[order])]), span)

    def on_sale(self, section: Ints, time: Ints) -> tuple[Floats, Floats]:
        """Bounds of the cumulative weight of what is on sale; their difference is the weight."""
        end = np.searchsorted(self.keys, section * self.span + np.minimum(time, self.span - 1), side="right")
        return self.cumulative[self.starts[section]], self.cumulative[end]

    def draw(self, section: Ints, time: Ints, uniform: Floats) -> Ints:
        """One item a row, by weight."""
        low, high = self.on_sale(section, time)
        at = np.searchsorted(self.cumulative, low + uniform * (high - low), side="right") - 1
        # Rounding may carry a draw of almost 1 to the bound itself.
        last = np.searchsorted(self.cumulative, high, side="left") - 1
        return self.items[np.minimum(at, last)]


STREAMS = ("market", "lengths", "times", "choices", "behaviour", "extra", "visitors")


def stream(options: MarketOptions, name: str, *place: int) -> np.random.Generator:
    """Random numbers of one purpose, and of one place of it: a change of one does not shift the others."""
    return np.random.default_rng([options.seed, STREAMS.index(name), *place])


def build_market(options: MarketOptions) -> Market:
    """The items, lines, tastes and launches of a seed."""
    rng = stream(options, "market")
    count, span = options.items, options.horizon_days * DAY_S
    row = rng.permutation(count)  # row[s]: the catalogue's row of the s-th item of the plan, so that order says nothing
    planned_category = np.arange(count) * options.categories // count
    starts = np.searchsorted(planned_category, np.arange(options.categories))
    within = np.arange(count) - starts[planned_category]
    place = within % options.line_size
    line = np.cumsum(place == 0) - 1
    line_start = np.flatnonzero(place == 0)
    line_length = np.diff(np.append(line_start, count))
    companion = (line + rng.integers(1, max(len(line_start), 2), len(line_start))[line]) % len(line_start)
    own = [line_start[line] + (place + step) % line_length[line] for step in (1, 2, 3)]
    other = [line_start[companion] + (place + step) % line_length[companion] for step in (0, 1)]
    late = (place > 0) & (rng.random(count) < options.late_share)  # a line's first item is on sale from the start
    launch = np.where(late, rng.integers(span // 2, span - span // 20, count), 0)
    inverse = np.argsort(row)  # plan of every row
    category = planned_category[inverse]
    weight = np.asarray((1.0 + rng.permutation(count)) ** -options.zipf, np.float64)
    return Market(
        options=options,
        category=category,
        line=line[inverse],
        place=place[inverse],
        neighbours=row[np.stack([*own, *other], axis=1)[inverse]],
        weight=weight,
        launch=launch[inverse],
        taste=rng.dirichlet(np.full(options.categories, options.taste_focus), options.groups),
        group_share=rng.dirichlet(np.full(options.groups, 10.0)),
        in_category=Shelf.stock(category, options.categories, launch[inverse], weight, span),
        overall=Shelf.stock(np.zeros(count, np.int64), 1, launch[inverse], weight, span),
    )


def user_times(options: MarketOptions) -> tuple[Ints, Ints]:
    """``(offsets [users + 1], times [interactions])`` of the log in seconds, rising within a user."""
    lengths, times = stream(options, "lengths"), stream(options, "times")
    return draw_times(options, options.users, options.interactions, lengths, times)


def draw_times(
    options: MarketOptions,
    users: int,
    interactions: int,
    of_lengths: np.random.Generator,
    of_times: np.random.Generator,
) -> tuple[Ints, Ints]:
    """The same for any number of users, spread over the same time at the same pace."""
    share = of_lengths.gamma(1.5, size=users) + 1e-3
    lengths = MIN_LENGTH + of_lengths.multinomial(interactions - MIN_LENGTH * users, share / share.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    span = options.horizon_days * DAY_S
    pace = 0.4 * span * options.users / options.interactions
    steps = 1 + of_times.exponential(pace, interactions).astype(np.int64)
    steps[offsets[:-1]] = of_times.integers(0, int(0.7 * span) + 1, users)
    total = np.cumsum(steps)
    before = np.concatenate([[0], total])[offsets[:-1]]
    return offsets, total - np.repeat(before, lengths)


def simulate(market: Market, offsets: Ints, times: Ints) -> NDArray[np.int32]:
    """[interactions] int32: the items that the log's users take."""
    return simulate_groups(market, offsets, times, stream(market.options, "choices"))[0]


def simulate_groups(
    market: Market, offsets: Ints, times: Ints, rng: np.random.Generator
) -> tuple[NDArray[np.int32], Ints]:
    """[interactions] int32 items and the users' groups when they took them, step by step for all users at once."""
    options = market.options
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")  # the users still active at a step are a prefix
    starts, lengths = offsets[:-1][order], lengths[order]
    group = rng.choice(options.groups, size=len(order), p=market.group_share)
    items, groups = np.zeros(len(times), np.int32), np.zeros(len(times), np.int64)
    last = np.zeros(len(order), np.int64)
    for step in range(int(lengths[0])):
        active = int(np.searchsorted(-lengths, -step, side="left"))
        at = starts[:active] + step
        last = _draw(market, group[:active], last[:active] if step else None, times[at], rng)
        items[at], groups[at] = last, group[:active]
        moved = rng.random(active) < options.drift
        group[:active][moved] = rng.choice(options.groups, size=int(moved.sum()), p=market.group_share)
    return items, groups


def _draw(market: Market, group: Ints, last: Ints | None, time: Ints, rng: np.random.Generator) -> Ints:
    """The next item of every row; ``last`` is None at the first step."""
    options, rows = market.options, len(group)
    kind, pick, spot = rng.random((3, rows))
    if last is None:
        kind = options.transition + (1 - options.transition) * kind
    bounds = np.cumsum(market.taste, axis=1) + np.arange(options.groups)[:, None]
    bounds[:, -1] = np.arange(1, options.groups + 1)
    category = np.searchsorted(bounds.ravel(), group + pick, side="right") - group * options.categories
    drawn = market.in_category.draw(np.minimum(category, options.categories - 1), time, spot)
    popular = kind >= options.transition + options.taste
    drawn[popular] = market.overall.draw(np.zeros(int(popular.sum()), np.int64), time[popular], spot[popular])
    if last is not None:
        follows = np.flatnonzero(kind < options.transition)
        # ``kind`` is uniform below ``transition`` here, so it picks the neighbour too; ``pick`` stays the fall-back's.
        edge = np.searchsorted(np.cumsum(NEIGHBOUR_SHARES)[:-1], kind[follows] / options.transition, side="right")
        wanted = market.neighbours[last[follows], edge]
        ready = market.launch[wanted] <= time[follows]
        drawn[follows[ready]] = wanted[ready]
    return drawn
