"""The embedded marketplace as a source: made, not read. It needs no folder and knows its own optimum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recrl.components import Part
from recrl.data.log import BadRows, InteractionLog
from recrl.data.marketplace import Ints, MarketOptions, build_market, simulate, user_times
from recrl.data.optimum import best_metrics
from recrl.data.ragged import Ragged
from recrl.data.readers.item_words import describe
from recrl.errors import ConfigError


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
        picked = np.unique(np.linspace(0, len(users) - 1, min(len(users), options.optimum_rows)).astype(np.int64))
        begins, lengths = offsets[users[picked]], positions[picked]
        history = Ragged(items, offsets).windows(begins, lengths)
        clock = [times[start : start + count + 1] for start, count in zip(begins, lengths, strict=True)]
        return best_metrics(market, history, clock, items[begins + lengths].astype(np.int64))

    users = np.repeat(np.arange(options.users, dtype=np.int32), np.diff(offsets))
    user_ids = [str(user) for user in range(options.users)]
    return InteractionLog(users, items, times, None, describe(market), user_ids, optimum=optimum)


READER = Part(MarketOptions, read, "recrl's own marketplace, see recrl/data/marketplace.py")
