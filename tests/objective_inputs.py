"""Rows of an objective by hand, without a model."""

from __future__ import annotations

from typing import Any

import torch
from groups_of import OPS
from torch import Tensor

from recrl.groups.packed import PackedGroups
from recrl.groups.prompts import PromptBatch, Targets
from recrl.objectives.base import ObjectiveInputs, State


def rows_of(
    old: Tensor,
    advantage: list[float],
    *,
    mask: Tensor | None = None,
    ref: Tensor | None = None,
    prompt_of: list[int] | None = None,
    slate_size: list[int] | None = None,
    slate_entropy: list[float] | None = None,
) -> PackedGroups:
    """Packed rows with old log-probabilities [N, R]; every row has a prompt of its own unless ``prompt_of`` says so."""
    count = len(old)
    of = torch.arange(count) if prompt_of is None else torch.tensor(prompt_of)
    prompts = int(of.max()) + 1
    none = torch.full((prompts, 1), -1)
    targets = Targets(none, none.unsqueeze(-1))
    batch = PromptBatch(torch.zeros(prompts, 1, dtype=torch.long), torch.ones(prompts, dtype=torch.long), targets, none,
                        torch.zeros(prompts, dtype=torch.long))  # fmt: skip
    slot = torch.tensor([int((of[:row] == of[row]).sum()) for row in range(count)])
    everything = torch.ones_like(old, dtype=torch.bool)
    tokens = torch.zeros_like(old, dtype=torch.long)
    return PackedGroups(
        batch,
        of,
        slot,
        tokens,
        everything if mask is None else mask,
        tokens,
        torch.tensor(advantage, dtype=old.dtype),
        torch.ones(count, dtype=torch.long) if slate_size is None else torch.tensor(slate_size),
        torch.zeros(count, dtype=old.dtype) if slate_entropy is None else torch.tensor(slate_entropy, dtype=old.dtype),
        old,
        ref,
    )


def inputs_of(old: Tensor, advantage: list[float], *, state: State | None = None, **rows: Any) -> ObjectiveInputs:
    """What an objective sees of ``rows_of(old, advantage, **rows)``."""
    return ObjectiveInputs.of(rows_of(old, advantage, **rows), old, OPS, state or {})
