"""What every rollout's options have, and rollouts in parts that fit a token budget."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recrl.components import Options
from recrl.groups import PromptBatch, RolloutGroups

PER_TOKEN = frozenset({"tokens", "mask", "nodes", "logp"})


class RolloutOptions(Options):
    group_size: int = Field(16, ge=2)
    """Responses a prompt."""


def split_prompts(prompts: PromptBatch, token_budget: int, group: int) -> list[Tensor]:
    """Row numbers of parts that each hold at most ``token_budget`` prompt and beam tokens, as padded."""
    per_prompt = int(prompts.length.max()) + group
    size = max(1, token_budget // per_prompt)
    return list(torch.arange(len(prompts), device=prompts.length.device).split(size))


def join_groups(parts: list[RolloutGroups], prompts: PromptBatch) -> RolloutGroups:
    """One batch of groups again."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.tokens.shape[1] for part in parts)
    length = max(part.tokens.shape[2] for part in parts)

    def padded(name: str, fill: float) -> Tensor:
        tensors: list[Tensor] = [getattr(part, name) for part in parts]
        joined = []
        for tensor in tensors:
            tail = (0, length - tensor.shape[2]) if name in PER_TOKEN else (0, 0)
            pads = (*tail[: 2 * (tensor.dim() > 2)], 0, width - tensor.shape[1])
            joined.append(F.pad(tensor, pads, value=fill))
        return torch.cat(joined)

    return RolloutGroups(
        prompts,
        padded("tokens", 0),
        padded("mask", False),
        padded("nodes", 0),
        padded("logp", 0.0),
        padded("items", -1),
        padded("codes", -1),
        padded("exists", False),
    )
