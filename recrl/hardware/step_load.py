"""What a recipe asks of one step, found out from its own parts: no method is known by its name."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recrl.config import check, read_recipe
from recrl.data.ragged import Ragged
from recrl.groups.prompts import PromptBatch, Targets
from recrl.groups.rollout import RolloutGroups
from recrl.kernels.ops import Ops
from recrl.method import Method
from recrl.sids.trie import build_trie
from recrl.signals.base import SignalContext


@dataclass(frozen=True)
class StepLoad:
    """Sizes of one rollout and its optimiser steps.

    Attributes:
        group: responses a prompt.
        active: of these the rows that are trained on, in a group whose responses are not all worth the same.
        slate: items a response.
        prompts: of a rollout.
        mini_batches, epochs: as in ``[rl]``.
        old_log_prob: whether the rows' log-probabilities are computed once more before the update.
        reference: whether the loss weighs a reference.
        log_probs_a_step: of all rows before every optimiser step, beside the update's own (``Objective.adapt``).
    """

    group: int
    active: int
    slate: int
    prompts: int
    mini_batches: int
    epochs: int
    old_log_prob: bool
    reference: bool
    log_probs_a_step: int

    @property
    def optimizer_steps(self) -> int:
        return self.mini_batches * self.epochs


def step_load(recipe: str, *, group: int | None = None, prompts: int | None = None) -> StepLoad:
    """Of a recipe, by its name or file.

    Args:
        group: in place of the recipe's ``rl.rollout.group_size``.
        prompts: in place of its ``rl.prompts_per_step``.

    Raises:
        ConfigError: the recipe, or a number that does not go with it.
    """
    values = read_recipe(recipe)
    rl = values.setdefault("rl", {})
    if group is not None:
        rl["rollout"] = rl.get("rollout", {}) | {"group_size": group}
    if prompts is not None:
        rl["prompts_per_step"] = prompts
    options = check(values, f"recipe {recipe!r}").rl
    method = Method.make(options)
    rollout, objective = method.rollout_options, method.objective
    single = options.mini_batches * options.epochs == 1
    return StepLoad(
        group=rollout.group_size,
        active=active_rows(method),
        slate=rollout.slate_size,
        prompts=options.prompts_per_step,
        mini_batches=options.mini_batches,
        epochs=options.epochs,
        old_log_prob=not single,
        reference=objective.needs_reference(method.objective_options),
        log_probs_a_step=int(objective.adapt is not None and not single),
    )


def active_rows(method: Method) -> int:
    """Rows that the method's signal leaves of a group with one hit, by running it on such a group."""
    group, slate = method.rollout_options.group_size, method.rollout_options.slate_size
    groups = _one_hit(group, slate)
    rewards = torch.zeros(1, group, len(method.rewards))
    rewards[0, 0] = 1.0
    paths = Ragged.from_lists([[item] for item in range(group * slate)])
    context = SignalContext(Ops.pick("cpu"), build_trie(paths))
    signal = method.signal.run(groups, rewards, torch.tensor(method.weights), method.signal_options, context)
    return int(signal.active.sum())


def _one_hit(group: int, slate: int) -> RolloutGroups:
    """A prompt with ``group`` different responses, of which the first names its target."""
    items = torch.arange(group * slate).view(1, group, slate)
    tokens = items.clone()
    return RolloutGroups(
        prompts=PromptBatch(
            ids=_zeros(1, 1), length=_zeros(1) + 1, targets=Targets(_zeros(1, 1), _zeros(1, 1, 1)),
            history=_zeros(1, 1), start=_zeros(1),
        ),
        tokens=tokens,
        mask=torch.ones_like(tokens, dtype=torch.bool),
        nodes=torch.zeros_like(tokens),
        logp=torch.zeros(tokens.shape),
        items=items,
        codes=items.unsqueeze(-1),
        exists=torch.ones(1, group, dtype=torch.bool),
        hard=torch.zeros(1, dtype=torch.bool),
    )  # fmt: skip


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.long)
