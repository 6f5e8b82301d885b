"""Rollout groups by hand, without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recrl.data.ragged import Ragged
from recrl.groups.prompts import PromptBatch, Targets
from recrl.groups.rollout import RolloutGroups
from recrl.kernels.ops import Ops
from recrl.parts import Choice
from recrl.rewards.base import RewardContext
from recrl.sids.trie import Trie, build_trie
from recrl.signals.base import SignalContext

OPS = Ops.pick("cpu")


def _no_scorer(choice: Choice) -> Callable[[Tensor], Tensor]:
    raise AssertionError(f"no test of this kind fits a scorer: {choice}")


REWARD_CONTEXT = RewardContext(torch.arange(16) % 4, torch.linspace(0, 1, 16), torch.arange(16), _no_scorer)
"""Item ``i`` of 16 is of category ``i % 4`` and its engagement is ``i / 15``."""


THREE_LEVELS = [(3, 7, 2), (3, 7, 5), (3, 1, 2), (4, 7, 2), (3, 7, 9), (3, 9, 9), (3, 7, 2)]
"""Codes of the worked cases: item 0 is their target, and 6 has its codes and another suffix."""


def small_trie(items: int = 16) -> Trie:
    """Item ``i`` is spelled by its codes, as ``codes_of`` gives them, moved up by 50."""
    return build_trie(Ragged.from_lists([[50 + item // 4, 60 + item % 4] for item in range(items)]))


def context(state: Mapping[str, float] | None = None, *, seed: int = 0) -> SignalContext:
    """What a signal sees, over ``small_trie``."""
    return SignalContext(OPS, small_trie(), seed, state or {})


def groups_of(
    items: list[list[int]] | list[list[list[int]]],
    targets: list[list[int]] | None = None,
    *,
    exists: list[list[bool]] | None = None,
    prompt_lengths: list[int] | None = None,
    history: list[list[int]] | None = None,
    codes: Sequence[tuple[int, ...]] | None = None,
) -> RolloutGroups:
    """Groups whose response ``g`` of prompt ``b`` names ``items[b][g]``, an item or a slate; tokens are distinct.

    Responses whose first item is odd have two tokens, the others three. ``codes`` are those of every item, in place of
    ``codes_of``'s.
    """
    named = torch.tensor(items)
    named = named.unsqueeze(-1) if named.dim() == 2 else named
    batch, group, _ = named.shape
    real = (named >= 0).any(-1) if exists is None else torch.tensor(exists)
    asked = torch.full((batch, 1), -1) if targets is None else torch.tensor(targets)
    length = torch.tensor(prompt_lengths or [4] * batch)
    width = int(length.max())
    ids = torch.arange(batch * width).view(batch, width) + 100
    prompts = PromptBatch(
        torch.where(torch.arange(width) < length[:, None], ids, 0),
        length,
        Targets(asked, codes_of(asked, codes)),
        torch.full((batch, 1), -1) if history is None else torch.tensor(history),
        torch.zeros(batch, dtype=torch.long),
    )
    tokens = torch.arange(batch * group * 3).view(batch, group, 3)
    mask = real.unsqueeze(-1).expand(-1, -1, 3).clone()
    mask[..., 2] &= named[..., 0] % 2 == 0
    nothing = torch.zeros(batch, group, 3)
    groups = RolloutGroups(
        prompts,
        tokens,
        mask,
        tokens + 1000,
        nothing,
        named,
        codes_of(named, codes),
        real,
        torch.zeros(batch, dtype=torch.bool),
    )
    return replace(groups, hard=~groups.hits.any(1))


def codes_of(items: Tensor, table: Sequence[tuple[int, ...]] | None = None) -> Tensor:
    """[..., L] codes of items, -1 where there is none: those of the table, or two levels of four."""
    codes = torch.stack([items // 4, items % 4], -1) if table is None else torch.tensor(table)[items.clamp(min=0)]
    return torch.where(items.unsqueeze(-1) >= 0, codes, -1)
