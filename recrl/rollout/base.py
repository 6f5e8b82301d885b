"""What every rollout's options have, and rollouts in parts that fit a token budget."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from recrl.backends.policy import Decoding
from recrl.groups.prompts import PromptBatch, Targets
from recrl.groups.rollout import RolloutGroups
from recrl.memory.recalled import join_recalled
from recrl.parts import Options
from recrl.seeding import seed_of
from recrl.sids.trie import Trie

PER_TOKEN = frozenset({"tokens", "mask", "nodes", "logp"})


class RolloutOptions(Options):
    group_size: int = Field(16, ge=2)
    """Responses a prompt."""
    slate_size: int = Field(1, ge=1)
    """Items that a response names, concatenated."""


class SingleItemOptions(RolloutOptions):
    """Of rollouts that make no slates."""

    slate_size: int = Field(1, ge=1)
    """Items that a response names: one, this kind makes no slates."""

    @field_validator("slate_size")
    @classmethod
    def _is_one(cls, size: int) -> int:
        if size > 1:
            raise ValueError("responses of this kind name one item; beam, sample and dynamic make slates")
        return size


@dataclass(frozen=True)
class RolloutContext:
    """The surroundings of one step.

    Attributes:
        trie: of the legal responses.
        codes: [items, L] SID codes.
        seed: of this step's random numbers.
        step, steps: rollouts done, and those that the run does in all.
        first: place of the first prompt among all of the step.
    """

    policy: Decoding
    trie: Trie
    codes: Tensor
    seed: int
    step: int = 0
    steps: int = 1
    first: int = 0


def generators(seed: int, first: int, count: int) -> list[torch.Generator]:
    """A source of random numbers for every prompt, independent of batch and rank.

    Args:
        first: place of the first of ``count`` prompts among all of the step.
    """
    return [torch.Generator().manual_seed(seed_of(seed, first + place)) for place in range(count)]


def split_prompts(prompts: PromptBatch, token_budget: int, group: int) -> list[Tensor]:
    """Row numbers of parts that each hold at most ``token_budget`` prompt and beam tokens, as padded."""
    if not len(prompts):
        return []
    per_prompt = int(prompts.length.max()) + group
    size = max(1, token_budget // per_prompt)
    return list(torch.arange(len(prompts), device=prompts.length.device).split(size))


def to_device(groups: RolloutGroups, device: torch.device) -> RolloutGroups:
    """The same groups, with all of their tensors on a device."""
    moved: RolloutGroups = _moved(groups, device)
    return moved


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if is_dataclass(value):
        return replace(value, **{part.name: _moved(getattr(value, part.name), device) for part in fields(value)})  # type: ignore[type-var]
    return value


def join_prompts(parts: list[PromptBatch]) -> PromptBatch:
    """One batch of prompts."""

    def joined(tensors: list[Tensor], fill: int) -> Tensor:
        width = max(tensor.shape[1] for tensor in tensors)
        return torch.cat([_pad(tensor, (tensor.shape[0], width), fill) for tensor in tensors])

    items = joined([part.targets.items for part in parts], -1)
    wide, levels = items.shape[1], max(part.targets.codes.shape[2] for part in parts)
    codes = [_pad(part.targets.codes, (len(part), wide, levels), -1) for part in parts]
    return PromptBatch(
        joined([part.ids for part in parts], 0),
        torch.cat([part.length for part in parts]),
        Targets(items, torch.cat(codes)),
        joined([part.history for part in parts], -1),
        torch.cat([part.start for part in parts]),
        None if parts[0].pool is None else joined([part.pool for part in parts if part.pool is not None], -1),
        join_recalled([part.recalled for part in parts if part.recalled is not None]),
        None
        if parts[0].sequence is None
        else torch.cat([part.sequence for part in parts if part.sequence is not None]),
    )


def join_groups(parts: list[RolloutGroups]) -> RolloutGroups:
    """One batch of groups."""
    if len(parts) == 1:
        return parts[0]
    group = max(part.tokens.shape[1] for part in parts)
    length = max(part.tokens.shape[2] for part in parts)

    def joined(name: str, fill: float) -> Tensor:
        tensors: list[Tensor] = [getattr(part, name) for part in parts]
        return torch.cat(
            [
                _pad(tensor, (len(tensor), group, *((length,) if name in PER_TOKEN else tensor.shape[2:])), fill)
                for tensor in tensors
            ]
        )

    return RolloutGroups(
        join_prompts([part.prompts for part in parts]),
        joined("tokens", 0),
        joined("mask", False),
        joined("nodes", 0),
        joined("logp", 0.0),
        joined("items", -1),
        joined("codes", -1),
        joined("exists", False),
        torch.cat([part.hard for part in parts]),
    )


def _pad(tensor: Tensor, shape: tuple[int, ...], fill: float) -> Tensor:
    """``tensor`` with ``fill`` behind it in every dimension, up to ``shape``."""
    pads = [size for have, want in zip(tensor.shape[::-1], shape[::-1], strict=True) for size in (0, want - have)]
    return F.pad(tensor, pads, value=fill)
