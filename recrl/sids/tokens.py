"""SID tokens in a Hugging Face tokenizer."""

from __future__ import annotations

import numpy as np
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from recrl.data.ragged import Ragged
from recrl.errors import UserError
from recrl.sids.codes import SidIndex


def add_sid_tokens(tokenizer: PreTrainedTokenizerBase, index: SidIndex) -> int:
    """Add what the tokenizer lacks of the index's vocabulary; returns how many tokens that were."""
    known = tokenizer.get_vocab()
    missing = [token for token in index.vocabulary() if token not in known]
    return int(tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in missing]))


def sid_token_ids(tokenizer: PreTrainedTokenizerBase, index: SidIndex) -> Ragged:
    """Row ``i``: the token ids of item ``i``'s SID, suffix included.

    Raises:
        UserError: the tokenizer lacks a token, so it belongs to another index.
    """
    known = tokenizer.get_vocab()
    names = index.vocabulary()
    missing = [token for token in names if token not in known]
    if missing:
        raise UserError(
            f"the tokenizer lacks {len(missing)} SID tokens, {missing[0]} first",
            why="the model was trained with another SID index",
            fix="name the index that it was trained with, or train again",
        )
    table = np.array([known[token] for token in names], np.int32)
    firsts = np.concatenate([[0], np.cumsum(index.sizes)])
    path = table[index.codes + firsts[:-1]]
    has_suffix = index.suffix >= 0
    last = np.where(has_suffix, table[np.minimum(firsts[-1] + np.maximum(index.suffix, 0), len(table) - 1)], -1)
    padded = np.column_stack([path, last])
    offsets = np.zeros(len(index) + 1, np.int64)
    np.cumsum(index.levels + has_suffix, out=offsets[1:])
    return Ragged(padded[padded >= 0].astype(np.int32), offsets)
