"""TRL's ``GRPOTrainer`` on the prompts and weights of one of our runs.

Everything that it does beside its step and that can be turned off is off: gradient checkpointing, bfloat16, logging,
saving, reports, progress bars. TRL loads when it is asked for; where it is not installed ``load_trl`` says so.
"""

from __future__ import annotations

import importlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from recrl.bench.measurement import PeerMissingError, Seconds, UnequalWorkError
from recrl.bench.timing import interleave, seconds_of
from recrl.bench.world import LEVELS
from recrl.groups.packed import PackedGroups
from recrl.groups.prompts import PromptBatch
from recrl.models.checkpoint import load_folder
from recrl.objectives.grpo import GrpoOptions
from recrl.training.rl import Rl

PEERS = ("trl", "datasets", "accelerate")


def load_trl() -> tuple[Any, Any]:
    """The modules ``trl`` and ``datasets``.

    Raises:
        PeerMissingError: one of them, or what they need, is not installed.
    """
    try:
        found = {name: importlib.import_module(name) for name in PEERS}
    except ModuleNotFoundError as error:
        raise PeerMissingError(f"{error.name} is not installed", fix="pip install 'recrl[bench]'") from None
    logging.getLogger("trl").setLevel(logging.ERROR)  # hints about options, meant for a training and not for a clock
    return found["trl"], found["datasets"]


@dataclass
class StepTimes:
    """Wall times of steps, ours and theirs in turn; ``rollout`` is the part of theirs that generates and scores."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    rollout: list[float] = field(default_factory=list)

    def after(self, warmup: int) -> tuple[Seconds, Seconds, Seconds]:
        """Ours, theirs and their rollout without the first ``warmup`` rounds."""
        ours, theirs, rollout = (Seconds(runs=runs[warmup:]) for runs in (self.ours, self.theirs, self.rollout))
        return ours, theirs, rollout


class Peer:
    """A trainer that starts from the model folder of ``rl`` and takes the prompts of its first step.

    Args:
        out: an empty folder; TRL wants one.
        per_device: rows of a micro-batch; it divides the rows of a step.
        steps: optimiser steps that ``train`` takes.
    """

    def __init__(self, rl: Rl, out: Path, per_device: int, steps: int) -> None:
        trl, datasets = load_trl()
        self.prompts = rl.environment.prompts(0)
        assert rl.config.rl.init is not None
        model, tokenizer = load_folder(rl.config.rl.init)
        self.texts = ["".join(tokenizer.convert_ids_to_tokens(ids)) for ids in self.prompts.ids.tolist()]
        response = rl.world.writer.responses()
        targets = [response[int(item)].tolist() for item in self.prompts.targets.items[:, 0]]
        with _no_future_warnings():
            self.trainer = trl.GRPOTrainer(
                model=model,
                reward_funcs=[_hit],
                args=trl.GRPOConfig(**_options(rl, len(self.prompts), per_device, steps), output_dir=str(out)),
                train_dataset=datasets.Dataset.from_dict({"prompt": self.texts, "target": targets}),
                processing_class=tokenizer,
            )
        self.trainer.remove_callback(PrinterCallback)

    def loss(self, batch: PackedGroups) -> tuple[Tensor, Tensor]:
        """TRL's loss on our rows, and [N, R] log-probabilities of their tokens; the loss carries the gradient."""
        inputs = _prepared(batch)
        model = self.trainer.model.eval()  # no dropout to turn off; TRL then leaves the accumulation out of the loss
        loss = self.trainer._compute_loss(model, inputs)
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        with torch.no_grad():
            logp, _, _ = self.trainer._get_per_token_logps_and_entropies(
                model, ids, torch.ones_like(ids), inputs["completion_ids"].shape[1]
            )
        return loss, logp

    def time_per_device(self, batch: PackedGroups, candidates: Sequence[int]) -> dict[int, float]:
        """Seconds a row of a forward and backward pass over micro-batches of each size, the better of two."""
        model = self.trainer.model.eval()
        inputs = _prepared(batch)

        def update(rows: int) -> None:
            part = {name: value[:rows] if value.dim() else value for name, value in inputs.items()}
            self.trainer._compute_loss(model, part).backward()
            model.zero_grad()

        update(min(candidates))  # warm-up
        tasks = {str(rows): partial(update, rows) for rows in candidates}
        spent = interleave(tasks, 2, warmup=0)
        return {rows: min(spent[str(rows)].runs) / rows for rows in candidates}

    def check_prompts(self) -> None:
        """TRL reads the same tokens as we do.

        Raises:
            UnequalWorkError: it does not.
        """
        ids = self.trainer._tokenize_prompts(self.texts)[0]
        if ids != self.prompts.ids.tolist():
            raise UnequalWorkError("TRL's prompts are not ours", why="its tokenizer made other token ids of them")

    def train(self, ours: Callable[[], object]) -> StepTimes:
        """TRL's own training loop; after each of its steps one of ours.

        Raises:
            UnequalWorkError: TRL generated shorter responses or other numbers of rows.
        """
        times, trainer = StepTimes(), self.trainer
        generate = trainer._generate_and_score_completions

        def timed(inputs: Any) -> Any:
            begin = time.perf_counter()
            made = generate(inputs)
            times.rollout.append(time.perf_counter() - begin)
            shape, expected = tuple(made["completion_ids"].shape), (len(self.texts) * trainer.num_generations, LEVELS)
            if shape != expected or not bool(made["completion_mask"].all()):
                raise UnequalWorkError(f"TRL generated {shape} tokens", why=f"a step of ours has {expected}")
            return made

        trainer._generate_and_score_completions = timed
        trainer.add_callback(_Clock(times, ours))
        with _no_future_warnings():
            trainer.train()
        return times


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Times every optimiser step of a trainer, and runs one of ours after it."""

    def __init__(self, times: StepTimes, ours: Callable[[], object]) -> None:
        self._times, self._ours = times, ours
        self._begin = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begin = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._times.theirs.append(time.perf_counter() - self._begin)
        self._times.ours.append(seconds_of(self._ours))


def _options(rl: Rl, prompts: int, per_device: int, steps: int) -> dict[str, Any]:
    """TRL's config for the step that ``rl`` takes."""
    group, objective, ours = rl.method.rollout_options.group_size, rl.method.objective_options, rl.config.rl
    assert isinstance(objective, GrpoOptions)
    assert objective.kl_beta == 0
    assert (prompts * group) % per_device == 0, (prompts, group, per_device)
    return {
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": prompts * group // per_device,
        "num_generations": group,
        "max_completion_length": LEVELS,
        "generation_kwargs": {"min_new_tokens": LEVELS},
        "shuffle_dataset": False,
        "loss_type": "grpo",
        "beta": 0.0,
        "epsilon": objective.clip_low,
        "epsilon_high": objective.clip_high,
        "learning_rate": ours.lr,
        "weight_decay": ours.weight_decay,
        "adam_beta1": ours.betas[0],
        "adam_beta2": ours.betas[1],
        "max_grad_norm": ours.clip_grad,
        "lr_scheduler_type": "constant",
        "max_steps": steps,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }


@contextmanager
def _no_future_warnings() -> Iterator[None]:
    """Without the warnings that TRL and transformers have for each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _prepared(batch: PackedGroups) -> dict[str, Tensor]:
    """Rows of prompts of one length as TRL's loss takes them."""
    prompts: PromptBatch = batch.prompts
    ids = prompts.ids[batch.prompt_of]
    assert bool((prompts.length == ids.shape[1]).all()), "TRL pads on the left; our prompts need no padding"
    assert batch.logp_old is not None
    return {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": batch.tokens,
        "completion_mask": batch.mask.long(),
        "advantages": batch.advantage,
        "old_per_token_logps": batch.logp_old,
        "num_items_in_batch": batch.mask.sum(),
    }


def _hit(completion_ids: list[list[int]], target: list[list[int]], **_: Any) -> list[float]:
    """1 where a response is the target's SID."""
    return [float(ids == wanted) for ids, wanted in zip(completion_ids, target, strict=True)]
