"""Prompts of 10,000 tokens with 32 beams: nothing as large as the prompt's square, nor a copy of its cache a beam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from worlds import tiny_policy, tiny_prompts

from recrl.rollout.beam import beam_search

TOKENS, WIDTH = 10_000, 32


class Largest(TorchDispatchMode):
    """Keeps the number of elements of the largest memory that an op gave."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.untyped_storage().nbytes() // value.element_size())
        return out


def test_memory_grows_with_the_prompt_alone() -> None:
    policy = tiny_policy()
    prompts = tiny_prompts(policy, [TOKENS])
    with torch.no_grad(), Largest() as largest:
        responses = beam_search(policy, policy.trie, prompts, WIDTH)
    assert int(responses.exists.sum()) == WIDTH
    assert responses.score.isfinite().all()
    config = policy.model.config
    cache = TOKENS * config.num_key_value_heads * config.head_dim  # one layer's keys
    widest = TOKENS * max(config.intermediate_size, config.num_attention_heads * config.head_dim, config.hidden_size)
    assert largest.elements <= widest < min(TOKENS**2, WIDTH * cache)
