"""Reinforcement learning: the step of DESIGN section 2, blind to the method.

A method is what the config's recipe composes: rollout, rewards, signal, objective. Inactive rows are gone before any
log-probability is computed; the old log-probability is skipped where one optimiser step follows a rollout, since it
then equals the new one; the reference is skipped where nothing weighs it.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recrl.backends.torch_backend import TransformersPolicy
from recrl.config import RunConfig
from recrl.groups import PackedGroups, PromptBatch, RolloutGroups, Signal, pack_active
from recrl.objectives.base import ObjectiveInputs
from recrl.rollout.base import join_groups, split_prompts
from recrl.seeding import seed_of
from recrl.signals.base import SignalContext
from recrl.training import checkpoint
from recrl.training.ahead import Ahead
from recrl.training.group_health import group_health
from recrl.training.launch import Position, Report, launch
from recrl.training.meter import Meter
from recrl.training.method import Method
from recrl.training.optimizer import adamw, clip, cosine_lr, optimizer_tensors, restore_optimizer, set_lr
from recrl.training.rl_prompts import PromptSource
from recrl.training.run_folder import StageFolder
from recrl.training.setup import load_world, make_policy
from recrl.training.validation import Progress, Validation


class Rl:
    """One RL run in memory."""

    def __init__(self, config: RunConfig, folder: StageFolder) -> None:
        self.config = config
        self.folder = folder
        self.method = Method.make(config.rl)
        self.world, self.policy = load_world(config, start_folder(config))
        model = self.policy.model
        self.reference: TransformersPolicy | None = None
        if self.method.objective_options.kl_beta > 0:
            frozen = copy.deepcopy(model).requires_grad_(False)
            self.reference = make_policy(config, self.world, frozen, self.policy.tokenizer)
        options = config.rl
        self.optimizer = adamw(model, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay)
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        self.validation = Validation.make(config, self.world)
        self.meter = Meter(model, self.world.device, config.backend.dtype)
        self.at = Position()
        self.progress = Progress()
        self.signal_state: dict[str, float] = {}
        self.prompts = PromptSource(config, self.world)
        self.next_prompts = Ahead(self.prompts.batch)

    @property
    def single_step(self) -> bool:
        """One optimiser step a rollout: the old log-probability is the new one, detached."""
        return self.config.rl.epochs * self.config.rl.mini_batches == 1

    def rollout(self, prompts: PromptBatch, seed: int) -> RolloutGroups:
        """Groups of all prompts, in parts of at most the token budget."""
        parts = split_prompts(prompts, self.config.backend.token_budget, self.method.rollout_options.group_size)
        with torch.no_grad():
            groups = [
                self.method.rollout.run(
                    self.policy, self.world.trie, prompts.select(rows), self.world.codes, self.method.rollout_options,
                    seed_of(seed, number) if number else seed,
                )
                for number, rows in enumerate(parts)
            ]  # fmt: skip
        return join_groups(groups, prompts)

    def step(self) -> dict[str, float]:
        """One rollout and its optimiser steps; returns the step's metrics."""
        meter, seed = self.meter, seed_of(self.config.run.seed, "rl", "rollout", self.at.step)
        with meter.time("step"):
            prompts = self.next_prompts(self.at.step)
            with meter.time("gen"):
                groups = self.rollout(prompts, seed)
            with meter.time("reward"):
                rewards = self.method.reward(groups)
                weights = torch.tensor(self.method.weights, device=rewards.device)
                context = SignalContext(self.policy.ops, self.world.trie, seed_of(seed, "signal"), self.signal_state)
                signal: Signal = self.method.signal.run(groups, rewards, weights, self.method.signal_options, context)
                self.signal_state = dict(signal.state)
                batch = pack_active(signal, self.policy.ops)
            values = group_health(groups, signal, rewards, weights)
            if len(batch):
                batch = self.with_logps(batch)
                with meter.time("update_actor"):
                    values |= self.update(batch)
        return values | meter.take("update_actor")

    def with_logps(self, batch: PackedGroups) -> PackedGroups:
        """Old and reference log-probabilities, each only where it is needed."""
        old = ref = None
        with torch.no_grad():
            if not self.single_step:
                with self.meter.time("old_log_prob"):
                    old = self.all_logps(self.policy, batch)
            if self.reference is not None:
                with self.meter.time("ref"):
                    ref = self.all_logps(self.reference, batch)
        return batch.with_logps(old, ref)

    def all_logps(self, policy: TransformersPolicy, batch: PackedGroups) -> Tensor:
        """[N, R], micro-batch by micro-batch; rows keep their order, since prompts are cut in order."""
        return torch.cat([policy.logp(part)[0] for part in batch.micro_batches(self.config.backend.token_budget)])

    def update(self, batch: PackedGroups) -> dict[str, float]:
        """The optimiser steps on one rollout."""
        options = self.config.rl
        totals: dict[str, float] = {}
        norms, losses = [], []
        for epoch in range(options.epochs):
            for number, rows in enumerate(self.mini_batches(len(batch.prompts), epoch)):
                lr = self.lr(epoch * options.mini_batches + number)
                set_lr(self.optimizer, lr)
                loss, report = self.backward(batch.select(rows))
                norms.append(clip(self.policy.parameters(), options.clip_grad, self.at.step))
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                losses.append(loss)
                for name, value in report.items():
                    totals[name] = totals.get(name, 0.0) + value
        tokens = totals.pop("tokens")
        values = {f"actor/{name}": total / tokens for name, total in totals.items()}
        values |= {"actor/loss": float(np.mean(losses)), "actor/grad_norm": float(np.mean(norms)), "actor/lr": lr}
        return values | {"actor/optimizer_steps": float(len(losses))}

    def lr(self, inner: int) -> float:
        """Learning rate of optimiser step ``inner`` of the current rollout."""
        options = self.config.rl
        per_rollout = options.epochs * options.mini_batches
        return cosine_lr(
            self.at.step * per_rollout + inner,
            steps=options.steps * per_rollout,
            warmup_steps=options.warmup_steps,
            lr=options.lr,
            lr_final=options.lr_final,
        )

    def mini_batches(self, prompts: int, epoch: int) -> list[Tensor]:
        """Prompts of every optimiser step of one pass, shuffled; empty ones are left out."""
        seed = seed_of(self.config.run.seed, "rl", "mini", self.at.step, epoch)
        order = torch.randperm(prompts, generator=torch.Generator().manual_seed(seed))
        parts = order.tensor_split(self.config.rl.mini_batches)
        return [part.sort().values.to(self.world.device) for part in parts if len(part)]

    def backward(self, mini: PackedGroups) -> tuple[float, dict[str, float]]:
        """Gradient of one optimiser step, whatever the micro-batches; the loss, and sums over tokens."""
        objective, options = self.method.objective, self.method.objective_options
        units = float(objective.units(mini.mask, options))
        loss = 0.0
        sums: dict[str, float] = {}
        for micro in mini.micro_batches(self.config.backend.token_budget):
            logp, entropy = self.policy.logp(micro)
            old = logp.detach() if micro.logp_old is None else micro.logp_old
            inputs = ObjectiveInputs(old, micro.logp_ref, micro.advantage, micro.mask, self.policy.ops)
            total, report = objective.run(logp, inputs, options)
            (total / units).backward()
            loss += float(total.detach()) / units
            for name, value in {**report, "entropy": entropy.sum()}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            self.meter.count(micro.effective_tokens, micro.pairs, int(micro.mask.sum()))
        return loss, sums

    def validate(self) -> dict[str, float]:
        with self.meter.time("eval"):
            score = self.validation.score(self.policy)
        self.progress = self.progress.after(self.at.step, score["valid/ndcg@10"])
        return score

    def save(self) -> None:
        """Write a checkpoint and drop those that are no longer wanted."""
        tensors = checkpoint.model_tensors(self.policy.model, "model") | optimizer_tensors(self.optimizer, self.names)
        state = {
            "at": asdict(replace(self.at, elapsed_s=self.folder.elapsed_s)),
            "progress": asdict(self.progress),
            "signal": self.signal_state,
        }
        checkpoint.write(self.folder.checkpoints, self.at.step, self.policy.save_pretrained, tensors, state)
        checkpoint.prune(self.folder.checkpoints, self.config.rl.keep, self.progress.best_step)

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Put everything back to where the checkpoint was written."""
        tensors = found.tensors()
        checkpoint.load_into(self.policy.model, tensors, "model")
        restore_optimizer(self.optimizer, self.names, tensors)
        self.at, self.progress = Position(**found.state["at"]), Progress(**found.state["progress"])
        self.signal_state = dict(found.state["signal"])

    def run(self, report: Report) -> dict[str, Any]:
        """Train to the end, or until validation says stop. Returns what ``status.json`` says."""
        options = self.config.rl
        if self.progress.best_step < 0:
            score = self.validate()
            self.folder.log(0, score | self.meter.take("eval"))
            report(0, options.steps, score)
            self.save()
        stop = self.stop_reason()  # a run that was killed between its last checkpoint and its end stays stopped
        while self.at.step < options.steps and not stop:
            values = self.step()
            self.at = Position(self.at.step + 1)
            validated = self.at.step % options.eval_every == 0 or self.at.step == options.steps
            if validated:
                score = self.validate()
                values |= score | {"timing_s/eval": self.meter.take("eval")["timing_s/eval"]}
                stop = self.stop_reason()
            self.folder.log(self.at.step, values)
            report(self.at.step, options.steps, values)
            if validated or (options.checkpoint_every and self.at.step % options.checkpoint_every == 0):
                self.save()
        return self.finish("stopped_early", stop) if stop else self.finish("finished", "all steps done")

    def stop_reason(self) -> str:
        """Why to stop after the last validation; empty to go on."""
        options, progress = self.config.rl, self.progress
        if progress.fell_below(options.max_ndcg_drop):
            return (
                f"validation NDCG@10 fell from {progress.start:.4f} to {progress.last:.4f}, "
                "more than rl.max_ndcg_drop allows"
            )
        if progress.out_of_patience(options.patience):
            return f"validation NDCG@10 has not risen for {progress.bad} validations"
        return ""

    def finish(self, state: str, reason: str) -> dict[str, Any]:
        """Write the status; the best checkpoint is the start itself where nothing was better."""
        status = {
            "reason": reason,
            "best_step": self.progress.best_step,
            "best_value": self.progress.best,
            "start_value": self.progress.start,
        }
        self.folder.status(state, **status)
        return {"state": state} | status


def start_folder(config: RunConfig) -> Path:
    """The model that RL starts from: ``rl.init``, or the best checkpoint of this run's SFT.

    Raises:
        UserError: neither is there.
    """
    if config.rl.init is not None:
        return config.rl.init
    return checkpoint.best(config.folder / "sft").model


def train_rl(config: RunConfig, report: Report, *, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Run RL as the config says, below ``config.folder / "rl"``."""
    folder = StageFolder(config.folder / "rl")
    return launch(Rl(config, folder), report, overwrite=overwrite, resume=resume)
