"""The SIDs that the data set brought along (MiniOneRec's index file, RecIF's messages), as they are."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from recrl.data.dataset import Catalog
from recrl.errors import DataError
from recrl.parts import Options
from recrl.sids.quantizers import Codes, Quantizer

TOKEN = re.compile(r"<[A-Za-z_]*_(\d+)>")  # <a_17>, <s_a_17>


class GivenOptions(Options):
    dense: bool = False
    """Number the codes that occur anew from 0, in their order. Off, a code keeps its number."""


def read(catalog: Catalog, options: GivenOptions) -> tuple[Codes, tuple[int, ...], dict[str, Any]]:
    """[items, levels] codes, the sizes of the levels, and notes.

    A token's level is its position. Where some SIDs are longer than others, what is beyond the shortest is a suffix of
    the source; it is left out, since every shared path gets suffixes of our own in row order.

    Raises:
        DataError: the data set has no SIDs, or a token is not of the form ``<a_17>``.
    """
    if catalog.sids is None:
        raise DataError(
            "the data set has no SIDs of its own",
            why="sid.quantizer.kind is 'given'",
            fix="use another quantiser, or prepare the data from a source with SIDs (minionerec, recif)",
        )
    lengths = [len(sid) for sid in catalog.sids]
    levels = min(lengths)
    if levels == 0:
        raise DataError(f"item {catalog.item_ids[lengths.index(0)]!r} has an empty SID", fix="correct it in the source")
    codes = np.array(
        [
            [_number(token, item) for token in sid[:levels]]
            for item, sid in zip(catalog.item_ids, catalog.sids, strict=True)
        ],
        np.int32,
    )
    if options.dense:
        columns = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in codes.T]
        codes = np.stack(columns, axis=1).astype(np.int32)
    longer = sum(length > levels for length in lengths)
    return codes, tuple(int(size) + 1 for size in codes.max(axis=0)), {"suffixes_left_out": longer}


def _number(token: str, item: str) -> int:
    match = TOKEN.fullmatch(token)
    if match is None:
        raise DataError(
            f"SID token {token!r} of item {item!r}",
            why="a token is a level's letters and a number, such as <a_17> or <s_a_17>",
            fix="correct it in the source",
        )
    return int(match[1])


GIVEN = Quantizer(GivenOptions, read, "", latent=None, from_catalog=True)
