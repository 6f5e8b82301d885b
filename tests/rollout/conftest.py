"""A policy whose trie holds two kinds of responses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from worlds import tiny_index, tiny_policy

from recrl.backends.torch_backend import TransformersPolicy
from recrl.data.ragged import Ragged
from recrl.sids.tokens import sid_token_ids
from recrl.sids.trie import build_trie

Titled = Callable[..., TransformersPolicy]


def titles(items: int) -> Ragged:
    """One to four words of three, and a token that closes them; item 4, 9, 14, ... is called like the one before."""
    rows = []
    for item in range(items):
        number, words = item - (item % 5 == 4), []
        while True:
            words.append(4 + number % 3)
            number = number // 3 - 1
            if number < 0:
                break
        rows.append([*words, 7])
    return Ragged.from_lists(rows)


@pytest.fixture(scope="session")
def titled() -> Titled:
    """A tiny policy over SIDs and, below a second root, titles."""

    def policy(items: int = 40, space: str = "raw") -> TransformersPolicy:
        plain = tiny_policy(items=items, space=space)
        trie = build_trie(sid_token_ids(plain.tokenizer, tiny_index(items)), titles(items))
        return TransformersPolicy(plain.model, plain.tokenizer, trie, torch.device("cpu"), space=space)  # type: ignore[arg-type]

    return policy
