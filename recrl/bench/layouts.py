"""RL runs whose rows lie as we lay them or as peers do, with as many active rows a group as one wants."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from recrl.bench.timing import interleave
from recrl.bench.world import WorldSize, make_config, set_token_budget
from recrl.config import RunConfig
from recrl.groups.packed import PackedGroups, pack_active
from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import RolloutGroups, Signal
from recrl.models.shared_prefix import ReadPrompts
from recrl.parts import Options, Part
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl

Layout = Literal["shared", "unpacked"]
LAYOUTS: tuple[Layout, ...] = ("shared", "unpacked")
TOKENS_AT_ONCE = 1 << 15
"""Tokens of the largest micro-batch that is tried."""


class RowsOptions(Options):
    active: int = Field(ge=1)
    """Active rows of every group."""


def first_rows(
    groups: RolloutGroups,
    rewards: Tensor,  # noqa: ARG001
    weights: Tensor,  # noqa: ARG001
    options: RowsOptions,
    context: object,  # noqa: ARG001
) -> Signal:
    """The first responses of every group are active, with advantages 1, -1, 1 and so on."""
    place = torch.arange(groups.exists.shape[1], device=groups.exists.device)
    active = groups.exists & (place < options.active)
    advantage = torch.where(active, 1.0 - 2.0 * (place % 2), 0.0)
    return Signal(groups, advantage, active, torch.zeros_like(groups.exists[:, 0]))


FIRST_ROWS = Part(RowsOptions, first_rows)


def unpacked(batch: PackedGroups) -> PackedGroups:
    """Every response with a copy of its prompt: groups of one row."""
    count = torch.arange(len(batch), device=batch.prompt_of.device)
    return replace(batch, prompts=batch.prompts.select(batch.prompt_of), prompt_of=count, slot=torch.zeros_like(count))


class LayoutRl(Rl):
    """A run in one of the two layouts, whose updates read their prompts themselves.

    Attributes:
        layout: of log-probabilities and updates; the rollout is the same.
        update_budget: tokens of their micro-batches; the rollout keeps the config's.
    """

    def __init__(self, config: RunConfig, layout: Layout, active: int) -> None:
        super().__init__(config, StageFolder(config.folder / "rl"))
        self.layout = layout
        self.rollout_budget = self.update_budget = config.backend.token_budget
        self.method = replace(self.method, signal=FIRST_ROWS, signal_options=RowsOptions(active=active))

    @property
    def keeps_prompts(self) -> bool:
        return False

    def rollout(self, prompts: PromptBatch, seed: int) -> RolloutGroups:
        set_token_budget(self, self.rollout_budget)
        return super().rollout(prompts, seed)

    def with_logps(self, batch: PackedGroups) -> PackedGroups:
        set_token_budget(self, self.update_budget)
        return super().with_logps(self.lay_out(batch))

    def update(self, batch: PackedGroups, read: ReadPrompts | None = None) -> dict[str, float]:
        set_token_budget(self, self.update_budget)
        return super().update(batch, read)

    def lay_out(self, batch: PackedGroups) -> PackedGroups:
        """Rows as ``pack_active`` gives them, in this run's layout."""
        return unpacked(batch) if self.layout == "unpacked" else batch

    def active_batch(self) -> PackedGroups:
        """The rows of a first step in this layout, without old and reference log-probabilities."""
        groups = self.rollout(self.environment.prompts(0), seed=0)
        nothing = groups.exists.float()
        signal = self.method.signal.run(groups, nothing, nothing, self.method.signal_options, None)
        return self.lay_out(pack_active(signal, self.policy.ops))


def make_layout_rl(
    folder: Path, size: WorldSize, layout: Layout, active: int, threads: int, **sections: dict[str, Any]
) -> LayoutRl:
    """A run on a world that was written to ``folder``; ``sections`` as in ``make_config``."""
    return LayoutRl(make_config(folder, size, threads, **sections), layout, active)


def choose_budget(rl: LayoutRl) -> dict[int, float]:
    """Set the fastest token budget; seconds a row of every budget that was tried.

    What is timed is the first micro-batch of each, forward and backward, the better of two.
    """
    batch = rl.active_batch()
    rows = {budget: batch.micro_batches(budget)[0] for budget in budgets(batch)}
    rl.backward(next(iter(rows.values())))  # warm-up
    tasks = {str(budget): partial(rl.backward, part) for budget, part in rows.items()}
    spent = interleave(tasks, 2, warmup=0)
    rl.optimizer.zero_grad()
    rl.meter.take("update_actor")
    tried = {budget: min(spent[str(budget)].runs) / len(part) for budget, part in rows.items()}
    rl.update_budget = min(tried, key=lambda budget: tried[budget])
    return tried


def budgets(batch: PackedGroups) -> list[int]:
    """Token budgets for 1, 4, 16 ... prompts at once, up to all of them, as far as memory is reasonable."""
    prompts = len(batch.prompts)
    one = -(-batch.effective_tokens // prompts)
    counts = sorted({min(prompts, 4**power) for power in range(6)})
    return [count * one for count in counts if count == 1 or count * one <= TOKENS_AT_ONCE]


def flat_gradient(rl: Rl, batch: PackedGroups) -> Tensor:
    """The gradient of an optimiser step on a batch, all parameters concatenated."""
    rl.optimizer.zero_grad()
    rl.backward(batch)
    gradient = torch.cat([cast("Tensor", parameter.grad).flatten() for parameter in rl.policy.model.parameters()])
    rl.optimizer.zero_grad()
    return gradient
