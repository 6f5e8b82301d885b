"""Reinforcement learning: one step, blind to the method.

A method is what the config's recipe composes: rollout, rewards, signal, objective. Inactive rows are gone before any
log-probability is computed; the old log-probability is skipped where one optimiser step follows a rollout, since it
then equals the new one; the reference is skipped where nothing weighs it.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recrl.backends.decoder_policy import MEMORY, DecoderPolicy
from recrl.config import RunConfig
from recrl.environments.base import Environment
from recrl.environments.log_prompts import asks_for_titles
from recrl.groups.packed import PackedGroups, pack_active
from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import RolloutGroups, Signal, slate_entropy
from recrl.method import Method
from recrl.models.shared_prefix import ReadPrompts
from recrl.objectives.base import ObjectiveInputs, log_ratio
from recrl.rollout.base import RolloutContext, join_groups, split_prompts, to_device
from recrl.run_data import RunData, load_data, load_run_data, start_run_data
from recrl.seeding import seed_of
from recrl.signals.base import SignalContext
from recrl.store import checkpoint
from recrl.store.run_folder import StageFolder, stage_folder
from recrl.training import feedback
from recrl.training.ahead import Ahead
from recrl.training.group_health import group_health, unequal
from recrl.training.in_step import in_step
from recrl.training.kept_prompts import KeptPrompts
from recrl.training.meter import make_meter, read_work, update_work
from recrl.training.optimizer import AdamW, cosine_lr
from recrl.training.reward_context import reward_context, text_vectors
from recrl.training.stage import Position, Report, launch
from recrl.training.validation import Progress, Validation
from recrl.training.weights import load_weights, saving, weights


class Rl:
    """One RL run in memory."""

    def __init__(self, config: RunConfig, folder: StageFolder) -> None:
        self.config = config
        self.folder = folder
        self.method = Method.make(config.rl)
        self.world, self.policy = starting_point(config)
        self.reference: DecoderPolicy | None = None
        if self.method.objective.needs_reference(self.method.objective_options):
            self.reference = self.policy.frozen_copy()
        options = config.rl
        self.ranks = self.world.ranks
        self.policy.train_memory()
        self.optimizer = AdamW(
            self.policy,
            self.ranks,
            lr=options.lr,
            betas=options.betas,
            weight_decay=options.weight_decay,
            faster={f"{MEMORY}.": config.memory.lr / options.lr},
        )
        self.validation = Validation.make(config, self.world)
        self.meter = make_meter(self.policy, config, self.ranks.size)
        self.at = Position()
        self.progress = Progress()
        self.signal_state: dict[str, float] = {}
        self.objective_state: dict[str, float] = {}
        self.drawn = 0  # batches of prompts so far
        made = self.method.environment.run(config, self.world, self.policy.config, self.method.environment_options)
        self.environment: Environment = made
        self.next_prompts = Ahead(self.environment.prompts)
        self.reward_context = reward_context(self.world)
        self.text_vectors = text_vectors(self.world, config.run.seed)
        self.kept: KeptPrompts | None = None  # of the last rollout

    @property
    def single_step(self) -> bool:
        """One optimiser step a rollout: the old log-probability is the new one, detached."""
        return self.config.rl.epochs * self.config.rl.mini_batches == 1

    @property
    def keeps_prompts(self) -> bool:
        """The update may reuse the rollout's prompt forward pass: one rollout, the same weights, the same rank.

        In bfloat16 autocast would hold a second copy of every matrix for it.
        """
        one_rollout = self.single_step and self.config.rl.max_gen_batches == 1
        one_rank = self.ranks.data_size == 1 and self.policy.replicated
        return one_rollout and one_rank and self.policy.dtype == "float32"

    def rollout(self, prompts: PromptBatch, seed: int) -> RolloutGroups:
        """Groups of all prompts: this rank's in parts of at most the token budget, then those of all ranks."""
        mine, first = self.own_prompts(prompts)
        parts = split_prompts(mine, self.config.backend.token_budget, self.method.rollout_options.group_size)
        world, steps = self.world, self.config.rl.steps
        self.kept = KeptPrompts(self.policy) if self.keeps_prompts and len(parts) == 1 else None
        policy = self.kept or self.policy

        def part(rows: Tensor) -> RolloutGroups:
            context = RolloutContext(
                policy, world.trie, world.codes, seed, self.at.step, steps, first=first + int(rows[0])
            )
            groups: RolloutGroups = self.method.rollout.run(mine.select(rows), self.method.rollout_options, context)
            return groups

        with torch.no_grad(), self.policy.gathered():
            made = [part(rows) for rows in parts]
        return join_groups(self.gathered(made))

    def own_prompts(self, prompts: PromptBatch) -> tuple[PromptBatch, int]:
        """What this rank rolls out, and the place of its first prompt among all."""
        if self.ranks.data_size == 1:
            return prompts, 0
        share = self.ranks.share(prompts.length.tolist())
        return prompts.select(torch.arange(share.start, share.stop, device=self.world.device)), share.start

    def gathered(self, made: list[RolloutGroups]) -> list[RolloutGroups]:
        """The parts of all ranks, in the order of the prompts."""
        if self.ranks.data_size == 1:
            return made
        every = self.ranks.all_gather([to_device(groups, torch.device("cpu")) for groups in made])
        return [to_device(groups, self.world.device) for parts in every for groups in parts]

    def generate(self, seed: int) -> tuple[RolloutGroups, Tensor]:
        """Groups of the next batch of prompts, and their [B, G, M] rewards."""
        with self.meter.time("gen"):
            number, prompts = self.drawn, self.next_prompts(self.drawn)
            self.drawn += 1
            groups = self.rollout(prompts, seed)
        with self.meter.time("reward"):
            feedback = self.environment.respond(number, groups)
            return groups, self.method.reward(groups, replace(self.reward_context, feedback=feedback))

    def gather(self, seed: int) -> tuple[RolloutGroups, Tensor, Tensor | None]:
        """All groups that the step made, their rewards, and which groups go on (None: all of them).

        With dynamic sampling further prompts come until enough groups have unequal rewards, and those go on.
        """
        groups, rewards = self.generate(seed)
        options, wanted = self.config.rl, len(groups.prompts)
        if options.max_gen_batches == 1:
            return groups, rewards, None
        limit = options.max_gen_batches
        if options.max_rollouts is not None:
            limit = min(limit, 1 + options.max_rollouts - self.drawn)
        made, paid = [groups], [rewards]
        kept = unequal(groups, rewards)
        while len(made) < limit and int(kept.sum()) < wanted:
            groups, rewards = self.generate(seed_of(seed, "more", len(made)))
            made.append(groups)
            paid.append(rewards)
            kept = torch.cat([kept, unequal(groups, rewards)])
        return join_groups(made), torch.cat(paid), kept.nonzero().squeeze(1)[:wanted]

    def step(self) -> dict[str, float]:
        """One rollout and its optimiser steps; returns the step's metrics."""
        meter, seed = self.meter, seed_of(self.config.rl_seed, "rl", "rollout", self.at.step)
        with meter.time("step"):
            groups, rewards, kept = self.gather(seed)
            with meter.time("reward"):
                weights = torch.tensor(self.method.weights, device=rewards.device)
                context = SignalContext(
                    self.policy.ops,
                    self.world.trie,
                    seed_of(seed, "signal"),
                    self.signal_state,
                    self.text_vectors,
                    self.config.memory.weight,
                )
                going_on = (groups, rewards) if kept is None else (groups.select(kept), rewards[kept])
                signal: Signal = self.method.signal.run(*going_on, weights, self.method.signal_options, context)
                self.signal_state = dict(signal.state)
                self.keep_best(signal)
                batch = pack_active(signal, self.policy.ops, self.observed(signal.groups))
            values = group_health(groups, signal, rewards, weights)
            read = self.read_prompts(signal, batch)
            if len(batch):
                batch = self.with_logps(batch)
                with meter.time("update_actor"):
                    values |= self.update(batch, read)
        return values | self.environment.take_metrics() | meter.take("update_actor")

    def read_prompts(self, signal: Signal, batch: PackedGroups) -> ReadPrompts | None:
        """What the rollout has read of the batch's prompts, for an update in one micro-batch; it is kept no longer."""
        kept, self.kept = self.kept, None
        fits = batch.effective_tokens <= self.config.backend.token_budget
        return kept.of(signal, batch) if kept and len(batch) and fits else None

    def keep_best(self, signal: Signal) -> None:
        """Leave the step's best responses to a later SFT."""
        share = self.config.rl.feedback_share
        if share and self.ranks.is_first:
            rows = feedback.best_responses(signal, share)
            feedback.record(self.folder.path / feedback.FOLDER, self.at.step + 1, rows, self.world.dataset)

    def observed(self, groups: RolloutGroups) -> Tensor:
        """[B, G] entropies of the slates, which the objective has then seen."""
        entropy = slate_entropy(groups.items, self.reward_context.category)
        entropy = torch.where(groups.exists, entropy, float("nan"))
        objective = self.method.objective
        if objective.observe is not None:
            state = objective.observe(self.objective_state, entropy, self.method.objective_options)
            self.objective_state = dict(state)
        return entropy

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

    def all_logps(self, policy: DecoderPolicy, batch: PackedGroups) -> Tensor:
        """[N, R], micro-batch by micro-batch, rank by rank; rows keep their order, since prompts are cut in order."""
        parts = self.own_rows(batch).micro_batches(self.config.backend.token_budget)
        with policy.gathered():
            found = [policy.logp(part)[0] for part in parts]
        if self.ranks.data_size == 1:
            return torch.cat(found)
        every = self.ranks.all_gather([logp.cpu() for logp in found])
        return torch.cat([logp for rank in every for logp in rank]).to(self.world.device)

    def own_rows(self, batch: PackedGroups) -> PackedGroups:
        """The rows that this rank computes: those of neighbouring prompts."""
        if self.ranks.data_size == 1:
            return batch
        share = self.ranks.share(batch.tokens_of_prompts)
        return batch.part(share.start, share.stop)

    def update(self, batch: PackedGroups, read: ReadPrompts | None = None) -> dict[str, float]:
        """The optimiser steps on one rollout.

        Args:
            read: the batch's prompts, where the rollout has read them and one step follows.
        """
        options = self.config.rl
        totals: dict[str, float] = {}
        norms, losses = [], []
        for epoch in range(options.epochs):
            for number, rows in enumerate(self.mini_batches(len(batch.prompts), epoch)):
                lr = self.lr(epoch * options.mini_batches + number)
                self.optimizer.set_lr(lr)
                loss, report = self.backward(batch.select(rows), read)
                norms.append(self.optimizer.clip(options.clip_grad, self.at.step))
                self.optimizer.step()
                self.optimizer.zero_grad()
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
        done, total = self.at.step, options.steps
        if options.max_rollouts is not None:
            done, total = self.drawn - 1, min(options.max_rollouts, options.steps * options.max_gen_batches)
        return cosine_lr(
            done * per_rollout + inner,
            steps=total * per_rollout,
            warmup_steps=options.warmup_steps,
            lr=options.lr,
            lr_final=options.lr_final,
        )

    def mini_batches(self, prompts: int, epoch: int) -> list[Tensor]:
        """Prompts of every optimiser step of one pass, shuffled; empty ones are left out."""
        seed = seed_of(self.config.rl_seed, "rl", "mini", self.at.step, epoch)
        order = torch.randperm(prompts, generator=torch.Generator().manual_seed(seed))
        parts = order.tensor_split(self.config.rl.mini_batches)
        return [part.sort().values.to(self.world.device) for part in parts if len(part)]

    def backward(self, mini: PackedGroups, read: ReadPrompts | None = None) -> tuple[float, dict[str, float]]:
        """Gradient of one optimiser step, whatever the micro-batches; the loss, and sums over tokens.

        Args:
            read: the prompts, all in one micro-batch.
        """
        objective, options = self.method.objective, self.method.objective_options
        units = float(objective.units(mini, options))
        state = self.objective_state | self.adapted(mini)
        sums: dict[str, Tensor] = {}
        own = self.own_rows(mini).micro_batches(self.config.backend.token_budget)
        for micro, counts in in_step(self.policy, self.ranks, own, lambda: mini.part(0, 1)):
            logp, entropy = self.policy.logp(micro, read)
            inputs = ObjectiveInputs.of(micro, logp, self.policy.ops, state)
            total, report = objective.run(logp, inputs, options)
            (total * (counts / units)).backward()
            if not counts:
                continue
            for name, value in {**report, "entropy": entropy.sum(), "loss": total.detach()}.items():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
        self.meter.count(update_work(mini), spared=read_work(mini) if read else None)
        self.optimizer.add_gradients()
        # Read once, when all is computed: each reading waits for the device.
        found = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True)) if sums else {}
        total_of = added(self.ranks.all_gather(found))
        return total_of.pop("loss") / units, total_of

    def adapted(self, mini: PackedGroups) -> dict[str, float]:
        """What the objective wants to know of all rows of an optimiser step together."""
        objective = self.method.objective
        if objective.adapt is None:
            return {}
        change = torch.zeros_like(mini.mask, dtype=torch.float32)
        if mini.logp_old is not None:  # else the policy has not moved since the rollout
            with torch.no_grad():
                change = log_ratio(self.all_logps(self.policy, mini), mini.logp_old, mini.mask)
        return dict(objective.adapt(change, mini, self.method.objective_options))

    def validate(self) -> dict[str, float]:
        with self.meter.time("eval"), self.policy.gathered():
            score = self.validation.score(self.policy)
        self.progress = self.progress.after(self.at.step, score["valid/ndcg@10"])
        return score

    def save(self) -> None:
        """Write a checkpoint and drop those that are no longer wanted."""
        state = {
            "at": asdict(replace(self.at, elapsed_s=self.folder.elapsed_s)),
            "progress": asdict(self.progress),
            "signal": self.signal_state,
            "objective": self.objective_state,
            "drawn": self.drawn,
            "environment": self.environment.state,
            "optimizer_steps": self.optimizer.steps,
        }
        tensors = itertools.chain(weights(self.policy, "model", self.ranks), self.optimizer.tensors())
        place, save_model = self.folder.checkpoints, saving(self.policy, self.ranks)
        checkpoint.write(place, self.at.step, save_model, tensors, state, self.ranks)
        if self.ranks.is_first:
            checkpoint.prune(place, self.config.rl.keep, self.progress.best_step)

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Put everything back to where the checkpoint was written."""
        load_weights(self.policy, "model", found.read)
        self.optimizer.restore(found.read, int(found.state["optimizer_steps"]))
        self.at, self.progress = Position(**found.state["at"]), Progress(**found.state["progress"])
        self.signal_state = dict(found.state["signal"])
        self.objective_state = dict(found.state["objective"])
        self.drawn = int(found.state["drawn"])
        self.environment.restore(found.state["environment"])

    def run(self, report: Report) -> dict[str, Any]:
        """Train to the end, or until validation says stop. Returns what ``status.json`` says."""
        options = self.config.rl
        if self.ranks.is_first:
            feedback.take_back(self.folder.path / feedback.FOLDER, self.at.step)
        if self.progress.best_step < 0:
            score = self.validate()
            self.folder.log(0, score | self.meter.take("eval"))
            report(0, options.steps, score)
            self.save()
        stop = self.stop_reason()  # a run that was killed between its last checkpoint and its end stays stopped
        while not stop and not self.end_reason():
            validations_due = self.spent // options.eval_every
            values = self.step()
            self.at = Position(self.at.step + 1)
            validated = self.spent // options.eval_every > validations_due or bool(self.end_reason())
            if validated:
                score = self.validate()
                values |= score | {"timing_s/eval": self.meter.take("eval")["timing_s/eval"]}
                stop = self.stop_reason()
            self.folder.log(self.at.step, values)
            report(self.at.step, options.steps, values)
            if validated or (options.checkpoint_every and self.at.step % options.checkpoint_every == 0):
                self.save()
        return self.finish("stopped_early", stop) if stop else self.finish("finished", self.end_reason())

    @property
    def spent(self) -> int:
        """Steps, or with ``rl.max_rollouts`` rollouts: what validations follow."""
        return self.at.step if self.config.rl.max_rollouts is None else self.drawn

    def end_reason(self) -> str:
        """Why the run is complete; empty to go on."""
        options = self.config.rl
        if self.at.step >= options.steps:
            return "all steps done"
        if options.max_rollouts is not None and self.drawn >= options.max_rollouts:
            return "all rollouts done"
        return self.environment.stop_reason()

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


def added(reports: list[dict[str, float]]) -> dict[str, float]:
    """Sums of what several ranks have summed; a rank without rows has none."""
    names = dict.fromkeys(name for report in reports for name in report)
    return {name: sum(report.get(name, 0.0) for report in reports) for name in names}


def starting_point(config: RunConfig) -> tuple[RunData, DecoderPolicy]:
    """The model that RL starts from, with its data: ``rl.init``, this run's best SFT, or ``[model]`` without SFT.

    Raises:
        UserError: it is not there.
    """
    titles = asks_for_titles(config)
    if config.rl.init is None and config.rl.start == "base":
        world, policy = start_run_data(config, *load_data(config), titles=titles)
        policy.model.eval()
        return world, policy
    folder = checkpoint.best(config.folder / "sft").model if config.rl.init is None else config.rl.init
    return load_run_data(config, folder, titles=titles)


def train_rl(config: RunConfig, report: Report, *, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Run RL as the config says, below ``config.folder / "rl"``."""
    folder = stage_folder(config.folder / "rl")
    begun = folder.as_begun(config) if resume else config
    return launch(Rl(begun, folder), report, overwrite=overwrite, resume=resume)
