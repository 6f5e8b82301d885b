"""The sections ``[sft]`` and ``[rl]`` of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from recrl.errors import nearest
from recrl.parts import Choice
from recrl.section import Section

TASKS = (
    "next",
    "slate",
    "sid_to_title",
    "title_to_sid",
    "titles_to_sid",
    "sids_to_title",
    "description_to_sid",
    "recif",
)


Share = Annotated[float, Field(ge=0, lt=1)]


def _check_tasks(tasks: dict[str, float]) -> None:
    for task, weight in tasks.items():
        if task not in TASKS:
            raise ValueError(f"no task {task!r}: {nearest(task, TASKS)}")
        if weight < 0:
            raise ValueError(f"the weight of task {task!r} is negative")


class AugmentSection(Section):
    """Changes to training sequences, drawn anew every epoch; validation and test are never touched."""

    reverse: float = Field(0.0, ge=0, le=1)
    """Probability that a sequence is read backwards."""
    shuffle: float = Field(0.0, ge=0, le=1)
    """Probability that a sequence is shuffled locally."""
    shuffle_window: int = Field(3, ge=2)
    """An item moves at most this many places, less one."""
    drop: float = Field(0.0, ge=0, lt=1)
    """Probability that an item is left out."""
    crop: float = Field(0.0, ge=0, le=1)
    """Probability that a sequence is cut to a random window."""


class TeacherSection(Section):
    """Soft targets from a collaborative scorer that is fitted on the training sequences (knowledge distillation)."""

    scorer: Choice = Choice(kind="item_knn")
    """A baseline."""
    weight: float = Field(0.0, ge=0)
    """Weight of its loss beside the next-item loss; 0 is off."""
    start: float = Field(0.0, ge=0, lt=1)
    """Share of the optimiser steps after which it joins: what can be learned from single targets is cheaper first."""
    prompts: int = Field(64, ge=1)
    """Histories of one optimiser step, drawn from the training sequences."""
    item_share: float = Field(0.0, ge=0, le=1)
    """Share of these that are a single item instead, drawn from the whole catalogue (item-to-item distillation): short
    prompts, and what few histories hold is learned as often as the rest."""
    responses: int = Field(8, ge=1)
    """Best-scored items of each, weighted by their scores."""
    exclude_history: bool = True
    """Whether items of the history are no targets; on for data in which nobody takes an item twice."""
    unlikelihood: float = Field(0.0, ge=0)
    """Weight of pushing down the latest items of the history, for the same data (arXiv:1908.04319); 0 is off."""
    unlikely: int = Field(3, ge=1)
    """How many of the latest items that is."""


class SftSection(Section):
    tasks: dict[str, float] = Field(default_factory=lambda: {"next": 1.0})
    """Task -> weight: how many times an epoch shows each of its examples (papers.md C-2)."""
    label_fill: Literal["", "tag"] = ""
    """What a slate is filled up with where fewer items are left: nothing, or items of the last one's category."""
    feedback: Path | None = None
    """A folder of responses that RL kept (``rl.feedback_share``): every epoch shows them once more."""
    held_out: Share = 0.0
    """Share of the users whose last training target SFT neither scores nor shows, for ``rl.targets = "held_out"``."""
    target_weight_power: float = Field(0.0, ge=0, le=2)
    """A next-item target weighs ``(n + 1) ** -power``, scaled to a mean of 1, ``n`` the item's training interactions: 0
    weighs all alike, 0.5 to 1 suit data in which rare items are asked for more often than training shows them."""
    epochs: int = Field(10, ge=1)
    """Passes over the training rows."""
    batch_size: int = Field(128, ge=1)
    """Sequences of one optimiser step."""
    lr: float = Field(1e-3, gt=0)
    """Highest learning rate."""
    lr_final: float = Field(0.0, ge=0)
    """Learning rate at the end of the cosine."""
    warmup_steps: int = Field(100, ge=0)
    """Optimiser steps of linear warm-up."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's, on matrices alone."""
    clip_grad: float = Field(1.0, gt=0)
    """Largest norm of the gradient; above it the gradient is scaled down."""
    betas: tuple[Share, Share] = (0.9, 0.98)
    """AdamW's."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Average of the weights that is evaluated and saved as the model; 0 is off."""
    augment: AugmentSection = AugmentSection()
    teacher: TeacherSection = TeacherSection()
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass in place of keeping them."""
    eval_every: int = Field(0, ge=0)
    """Optimiser steps between validations; 0 is once an epoch."""
    patience: int = Field(5, ge=0)
    """Validations without a better NDCG@10 before stopping; 0 never stops early."""
    checkpoint_every: int = Field(0, ge=0)
    """Optimiser steps between checkpoints; 0 is with every validation."""
    keep: int = Field(2, ge=1)
    """Checkpoints that stay, besides the best."""

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, tasks: dict[str, float]) -> dict[str, float]:
        _check_tasks(tasks)
        return tasks


class RlSection(Section):
    init: Path | None = None
    """A Hugging Face folder to start from; default: what ``start`` says."""
    start: Literal["sft", "base"] = "sft"
    """``sft``: the best checkpoint of this run's SFT. ``base``: the model of ``[model]`` as it is, without any SFT."""
    recipe: str | None = None
    """A file of ``recipes/``, or a path ending in .toml. The user's own keys win over it."""
    seed: int | None = Field(None, ge=0)
    """Draws the order of the prompts, their targets and the responses; default: ``run.seed``, which draws the
    validation examples in either case, so that runs with different seeds of RL are compared on the same examples."""
    tasks: dict[str, float] = Field(default_factory=lambda: {"next": 1.0})
    """Task -> weight: how many times a pass over the prompts shows each of its examples (papers.md C-2)."""
    steps: int = Field(100, ge=1)
    """Rollouts, each followed by ``epochs`` x ``mini_batches`` optimiser steps."""
    max_rollouts: int | None = Field(None, ge=1)
    """Rollouts after which the run ends, those of dynamic sampling included. The learning rate and ``eval_every`` then
    follow them and not the steps. Default: no limit beside ``steps``."""
    prompts_per_step: int = Field(64, ge=1)
    """Prompts of a rollout."""
    targets: Literal["last", "any", "held_out", "frontier"] = "any"
    """Which item of a training sequence is the target: the last one; one drawn anew each epoch; the last one of those
    sequences alone in which SFT has not seen it (``sft.held_out``); or none, with the whole sequence as the history
    (``frontier``), for rewards that need no target."""
    max_gen_batches: int = Field(1, ge=1)
    """Rollouts of one step at most: groups whose rewards are all equal give way to further prompts until
    ``prompts_per_step`` groups are left (DAPO's dynamic sampling, papers.md B-6); 1 keeps every group."""
    epochs: int = Field(1, ge=1)
    """Passes over a rollout."""
    feedback_share: float = Field(0.0, ge=0, le=1)
    """Share of a step's responses, the best by advantage and above 0, kept in ``rl/feedback`` for ``sft.feedback``."""
    mini_batches: int = Field(1, ge=1)
    """Optimiser steps of one pass over a rollout."""
    environment: Choice = Choice(kind="log")
    """Where prompts come from and what answers the responses: the log's training rows, whose targets are known, or the
    users of a synthetic marketplace, who click."""
    rollout: Choice = Choice(kind="beam")
    """How responses are generated."""
    rewards: list[Choice] = Field(default_factory=lambda: [Choice(kind="hit")], min_length=1)
    """What a response is worth; several are combined by the signal."""
    signal: Choice = Choice(kind="group_zscore")
    """From rewards to advantages and active rows."""
    objective: Choice = Choice(kind="grpo")
    """The loss."""
    lr: float = Field(1e-5, gt=0)
    """Highest learning rate."""
    lr_final: float = Field(0.0, ge=0)
    """Learning rate at the end of the cosine."""
    warmup_steps: int = Field(10, ge=0)
    """Optimiser steps of linear warm-up."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's, on matrices alone."""
    clip_grad: float = Field(1.0, gt=0)
    """Largest norm of the gradient; above it the gradient is scaled down."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """AdamW's."""
    eval_every: int = Field(20, ge=1)
    """Steps between validations. The start is always validated."""
    max_ndcg_drop: float = Field(0.02, ge=0)
    """Relative fall of validation NDCG@10 below the start at which the run stops."""
    patience: int = Field(5, ge=0)
    """Validations without a better NDCG@10 before stopping; 0 never stops early."""
    checkpoint_every: int = Field(0, ge=0)
    """Steps between checkpoints; 0 is with every validation."""
    keep: int = Field(2, ge=1)
    """Checkpoints that stay, besides the best."""

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, tasks: dict[str, float]) -> dict[str, float]:
        _check_tasks(tasks)
        return tasks
