"""Users of a made-up marketplace that are in no log: drawn from its generator, by a stream of their own.

Letters: V visitors, N items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recrl.data.marketplace import Floats, Ints, Market, draw_times, simulate_groups, stream
from recrl.data.optimum import next_item_distribution
from recrl.data.ragged import Ragged


@dataclass(frozen=True)
class Visitors:
    """What is known of users at the time of their visit.

    Attributes:
        history: [V] rows of items, oldest first; at least two.
        next_item: [V] what the user takes by himself.
        group: [V] the hidden taste group at that time; ``now``: [V] that time in seconds.
    """

    history: Ragged
    next_item: Ints
    group: Ints
    now: Ints


def draw_visitors(market: Market, count: int, *place: int) -> Visitors:
    """``count`` users whose lives are as long as the log's, seen at their last step; ``place`` names the draw."""
    options = market.options
    rng = stream(options, "visitors", *place)
    offsets, times = draw_times(options, count, max(3 * count, options.interactions * count // options.users), rng, rng)
    items, groups = simulate_groups(market, offsets, times, rng)
    last = offsets[1:] - 1
    history = Ragged(items, offsets).windows(offsets[:-1], np.diff(offsets) - 1)
    return Visitors(history, items[last].astype(np.int64), groups[last], times[last])


def truth(market: Market, visitors: Visitors) -> Floats:
    """[V, N] probability that an item is the next one, given history, time and the hidden group."""
    belief = np.eye(market.options.groups)[visitors.group]
    last = np.array([row[-1] for row in visitors.history], np.int64)
    return next_item_distribution(market, belief, last, visitors.now)
