"""The embedded marketplace as a source: made, not read. It needs no folder and knows its own optimum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.data.log import BadRows, InteractionLog
from recrl.data.marketplace import (
    Ints,
    Market,
    MarketOptions,
    build_market,
    draw_times,
    simulate,
    simulate_groups,
    stream,
    user_times,
)
from recrl.data.optimum import best_metrics
from recrl.data.ragged import Ragged
from recrl.data.readers.item_words import describe
from recrl.data.rows import evenly
from recrl.errors import ConfigError
from recrl.parts import Part


def read(source: Path | None, options: MarketOptions, bad_rows: BadRows) -> InteractionLog:  # noqa: ARG001 made data has no bad rows
    """Make the log.

    Raises:
        ConfigError: a source was named.
    """
    if source is not None:
        raise ConfigError(
            f"synthetic with source {source}", why="the data are made, not read", fix="leave the source out"
        )
    market = build_market(options)
    offsets, times = user_times(options)
    items = simulate(market, offsets, times)

    def optimum(users: Ints, positions: Ints) -> dict[str, Any]:
        if options.optimum_rows == 0:
            return {}
        picked = evenly(len(users), options.optimum_rows)
        begins, lengths = offsets[users[picked]], positions[picked]
        history = Ragged(items, offsets).windows(begins, lengths)
        clock = [times[start : start + count + 1] for start, count in zip(begins, lengths, strict=True)]
        return best_metrics(market, history, clock, items[begins + lengths].astype(np.int64))

    lengths, more_items, more_times = extra_users(market)
    users = np.repeat(np.arange(options.users + len(lengths), dtype=np.int32), np.append(np.diff(offsets), lengths))
    return InteractionLog(
        users,
        np.append(items, more_items),
        np.append(times, more_times),
        None,
        describe(market),
        [str(user) for user in range(options.users + len(lengths))],
        optimum=optimum,
        train_only=len(lengths),
    )


def extra_users(market: Market) -> tuple[Ints, NDArray[np.int32], Ints]:
    """[users] numbers of interactions, [interactions] items and times of the users that are for training alone."""
    options = market.options
    if not options.extra_users:
        return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)
    rng = stream(options, "extra")
    offsets, times = draw_times(options, options.extra_users, options.extra_interactions, rng, rng)
    return np.diff(offsets), simulate_groups(market, offsets, times, rng)[0], times


READER = Part(MarketOptions, read, "recrl's own marketplace, see recrl/data/marketplace.py")
