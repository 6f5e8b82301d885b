"""Targets that SFT leaves out, so that RL can ask for what the model has not memorised.

A part of the users is drawn from a seed; the last training target of each is held out, and SFT's sequences end before
it. The model's folder records share and seed, so RL finds the same users whatever its own config says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.data.dataset import Dataset, Sequences
from recrl.data.examples import with_target
from recrl.errors import UserError
from recrl.seeding import generator

RECORD = "recrl_held_out"
"""Where a model's config.json holds the share and the seed of its SFT."""


def held_out_rows(train: Sequences, share: float, seed: int) -> NDArray[np.int64]:
    """Rows, ascending, whose last target is held out: the latest row of every drawn user.

    Rows of a user stand in order of time, so no earlier sliding sample shows that target.

    Args:
        share: of the users whose latest row has a target, rounded to whole users.
    """
    _, from_end = np.unique(train.users[::-1], return_index=True)
    latest = np.intersect1d(len(train) - 1 - from_end, with_target(train))
    drawn = generator(seed, "held out").permutation(latest)[: round(share * len(latest))]
    return np.sort(drawn)


def without_held_out(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The data set as SFT may see it: as many training sequences, the drawn ones without their last target.

    Raises:
        UserError: a share above 0 of the users is nobody.
    """
    train = dataset.train
    rows = held_out_rows(train, share, seed)
    if share and not len(rows):
        raise UserError(
            f"sft.held_out = {share}",
            why=f"that is no user of the {len(train)} training sequences",
            fix="raise it, or prepare data with more training sequences",
        )
    lengths = train.items.lengths
    lengths[rows] -= 1
    shown = replace(train, items=train.items.cut(np.zeros_like(lengths), lengths))
    return replace(dataset, train=shown)


def record(model_config: Any, share: float, seed: int) -> None:
    """Note in a model's Hugging Face config what its SFT leaves out; share 0 says that it leaves nothing out."""
    setattr(model_config, RECORD, {"share": share, "seed": seed})


def only_held_out(train: Sequences, model_config: Any) -> NDArray[np.int64]:
    """Rows of the training sequences whose last target the SFT of a model has left out.

    Raises:
        UserError: it has left nothing out, or there was no SFT.
    """
    noted = getattr(model_config, RECORD, {"share": 0.0, "seed": 0})
    rows = held_out_rows(train, noted["share"], noted["seed"])
    if not len(rows):
        raise UserError(
            "rl.targets = 'held_out'",
            why="the SFT of the model that RL starts from held no target out",
            fix="train it with sft.held_out above 0, or set rl.targets to 'any' or 'last'",
        )
    return rows
