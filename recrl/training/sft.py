"""Supervised fine-tuning: rows in, a model that ranks by constrained beam search out.

Every random number follows from the seed and the step that uses it, so a resumed run is the same run.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recrl.backends.decoder_policy import DecoderPolicy
from recrl.config import RunConfig
from recrl.data.held_out import record, without_held_out
from recrl.hardware.flops import Work
from recrl.run_data import load_data, start_run_data
from recrl.seeding import seed_of
from recrl.store import checkpoint
from recrl.store.run_folder import StageFolder, stage_folder
from recrl.training.ahead import Ahead
from recrl.training.in_step import in_step
from recrl.training.meter import make_meter, update_work
from recrl.training.optimizer import AdamW, average_into, cosine_lr
from recrl.training.rows import RowMaker, Rows
from recrl.training.stage import Position, Report, launch
from recrl.training.target_weights import target_weights
from recrl.training.teacher import Teacher, soft_target_loss
from recrl.training.validation import Progress, Validation
from recrl.training.weights import load_weights, saving, weights


class Sft:
    """One SFT run in memory."""

    def __init__(self, config: RunConfig, folder: StageFolder) -> None:
        self.config = config
        self.folder = folder
        dataset, index = load_data(config)
        shown = without_held_out(dataset, config.sft.held_out, config.run.seed)
        self.world, self.policy = start_run_data(config, shown, index)
        record(self.policy.config, config.sft.held_out, config.run.seed)
        writer = replace(self.world.writer, memory=None)  # it weighs on what is decoded, and rows are given
        self.rows = RowMaker.make(
            self.world.dataset, writer, self.world.trie.to(torch.device("cpu")), config.sft, config.run.seed
        )
        weights_of_items = target_weights(shown, config.sft.target_weight_power)
        self.target_weights = torch.from_numpy(weights_of_items).to(self.world.device)
        self.ranks = self.world.ranks
        self.averaged = self.policy.frozen_copy() if config.sft.ema_decay else None
        self.policy.add_dropout(config.model.dropout)
        if config.sft.gradient_checkpointing:
            self.policy.checkpoint_gradients()
        options = config.sft
        self.optimizer = AdamW(
            self.policy, self.ranks, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay
        )
        self.validation = Validation.make(config, self.world)
        self.meter = make_meter(self.policy, config, self.ranks.size)
        self.teacher = Teacher.make(config, self.world, self.rows) if config.sft.teacher.weight else None
        self.soft_targets = None if self.teacher is None else Ahead(self.teacher.batch)
        self.at = Position()
        self.progress = Progress()
        self.epoch_rows = lru_cache(maxsize=1)(self.rows.epoch)  # the first one is asked for here and where it trains
        # Tells wrong tasks, too. The same in every epoch, but where prompts show candidates: there it varies a little.
        self.steps_per_epoch = len(self.rows.batches(0, self.epoch_rows(0)))

    def train_step(self, batch: Rows, lr: float, *, taught: bool = False) -> dict[str, float]:
        """One optimiser step; the loss is a mean over the batch's scored tokens, plus the teacher's where it joins.

        It is divided by their number on all ranks, whatever they weigh: that is 1 on average over the training targets.
        """
        options = self.config.sft
        torch.manual_seed(seed_of(self.config.run.seed, "dropout", self.at.step, *self.own_masks()))
        self.policy.model.train()
        lengths = batch.ids.lengths
        tokens = int((lengths - batch.first_scored).sum())
        loss = 0.0
        self.optimizer.set_lr(lr)
        self.optimizer.zero_grad()
        own = self.own_rows(batch).micro_batches(self.config.backend.token_budget)
        for part, counts in in_step(self.policy, self.ranks, own, lambda: batch.select(np.zeros(1, np.int64))):
            total = self.row_loss(*(states.to(self.world.device) for states in part.tensors())) * counts
            (total / tokens).backward()
            loss += float(total.detach()) / tokens
        taught_loss = self.teach() if taught else 0.0
        self.optimizer.add_gradients()
        norm = self.optimizer.clip(options.clip_grad, self.at.step)
        self.optimizer.step()
        if self.averaged is not None:
            average_into(
                self.averaged.parameters(), self.policy.parameters(), decay=options.ema_decay, step=self.at.step
            )
        self.meter.count(Work(len(batch.ids.values), int((lengths * (lengths + 1) // 2).sum()), tokens))
        every = self.ranks.all_gather((loss, taught_loss))
        values = {"sft/teacher_loss": sum(of_teacher for _, of_teacher in every)} if taught else {}
        values |= {"sft/loss": sum(of_rows for of_rows, _ in every), "sft/grad_norm": norm, "sft/lr": lr}
        return values | {"sft/tokens": float(tokens)}

    def own_masks(self) -> tuple[int, ...]:
        """What sets this rank's dropout apart; the first copy's is that of a run of one process."""
        return (self.ranks.data_rank,) if self.ranks.data_rank else ()

    def own_rows(self, batch: Rows) -> Rows:
        """The rows that this rank computes."""
        if self.ranks.data_size == 1:
            return batch
        share = self.ranks.share(batch.ids.lengths.tolist())
        return batch.select(np.arange(share.start, share.stop))

    def teach(self) -> float:
        """Add the gradient of the teacher's soft targets, the mean over their tokens; this rank's part of the loss."""
        assert self.soft_targets is not None
        batch = self.soft_targets(self.at.step)
        if not len(batch):  # nothing that others did is known of these histories
            return 0.0
        weight = self.config.sft.teacher.weight
        scale = weight / float((batch.advantage.clamp(min=0).unsqueeze(1) * batch.mask).sum())
        share = self.ranks.share(batch.tokens_of_prompts)
        loss = 0.0
        own = batch.part(share.start, share.stop).micro_batches(self.config.backend.token_budget)
        for micro, counts in in_step(self.policy, self.ranks, own, lambda: batch.part(0, 1)):
            logp, _ = self.policy.logp(micro)
            total = soft_target_loss(logp, micro.advantage) * (scale * counts)
            total.backward()
            loss += float(total.detach())
        self.meter.count(update_work(batch))
        return loss / weight

    def row_loss(self, ids: Tensor, nodes: Tensor, items: Tensor, scored: Tensor, length: Tensor) -> Tensor:
        """[T] each, and [N] lengths -> the negated log-likelihood, weighted and summed over scored tokens."""
        target = scored.nonzero().squeeze(1)
        hidden = self.policy.causal_hidden(ids, length)
        logp, _ = self.policy.token_logp(hidden.index_select(0, target - 1), ids[target], nodes[target])
        return -(logp * self.target_weights[items[target]]).sum()

    def evaluate(self) -> dict[str, float]:
        """Validation of what would be saved: the average of the weights if there is one."""
        policy = self.scored_policy()
        with self.meter.time("eval"), policy.gathered():
            return self.validation.score(policy)

    def scored_policy(self) -> DecoderPolicy:
        """What would be saved, in evaluation mode."""
        policy = self.policy if self.averaged is None else self.averaged
        policy.model.eval()
        return policy

    def save(self) -> None:
        """Write a checkpoint and drop those that are no longer wanted."""
        tensors = itertools.chain(
            weights(self.policy, "model", self.ranks),
            weights(self.averaged, "average", self.ranks) if self.averaged is not None else (),
            self.optimizer.tensors(),
        )
        state = {
            "at": asdict(replace(self.at, elapsed_s=self.folder.elapsed_s)),
            "progress": asdict(self.progress),
            "optimizer_steps": self.optimizer.steps,
        }
        place, save_model = self.folder.checkpoints, saving(self.scored_policy(), self.ranks)
        checkpoint.write(place, self.at.step, save_model, tensors, state, self.ranks)
        if self.ranks.is_first:
            checkpoint.prune(place, self.config.sft.keep, self.progress.best_step)

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Put everything back to where the checkpoint was written."""
        load_weights(self.policy, "model", found.read)
        if self.averaged is not None:
            load_weights(self.averaged, "average", found.read)
        self.optimizer.restore(found.read, int(found.state["optimizer_steps"]))
        self.at, self.progress = Position(**found.state["at"]), Progress(**found.state["progress"])

    def run(self, report: Report) -> dict[str, Any]:
        """Train to the end, or until validation no longer rises. Returns what ``status.json`` says."""
        options = self.config.sft
        per_epoch = self.steps_per_epoch
        while self.at.epoch < options.epochs and not self.progress.out_of_patience(options.patience):
            rows = self.epoch_rows(self.at.epoch)
            batches = self.rows.batches(self.at.epoch, rows)
            for number in range(self.at.batch, len(batches)):
                last = number + 1 == len(batches)
                epoch, batch = (self.at.epoch + 1, 0) if last else (self.at.epoch, number + 1)
                self.step(rows.select(batches[number]), Position(self.at.step + 1, epoch, batch), per_epoch, report)
                if self.progress.out_of_patience(options.patience):
                    break
        return self.finish()

    def step(self, batch: Rows, after: Position, per_epoch: int, report: Report) -> None:
        """One optimiser step with what belongs to it: validation, metrics, checkpoint."""
        options = self.config.sft
        steps = per_epoch * options.epochs
        lr = cosine_lr(
            self.at.step, steps=steps, warmup_steps=options.warmup_steps, lr=options.lr, lr_final=options.lr_final
        )
        taught = self.soft_targets is not None and self.at.step >= options.teacher.start * steps
        with self.meter.time("step"):
            values = self.train_step(batch, lr, taught=taught)
        self.at = after
        ends_epoch = after.batch == 0
        due = after.step % options.eval_every == 0 if options.eval_every else ends_epoch
        validated = due or after.epoch == options.epochs
        if validated:
            values |= self.evaluate()
            self.progress = self.progress.after(after.step, values["valid/ndcg@10"])
        values |= self.meter.take("step") | {"sft/epoch": after.step / per_epoch}
        self.folder.log(after.step, values)
        report(after.step, steps, values)
        if validated or (options.checkpoint_every and after.step % options.checkpoint_every == 0):
            self.save()

    def finish(self) -> dict[str, Any]:
        """Write the status."""
        stopped = self.at.epoch < self.config.sft.epochs
        reason = (
            f"validation NDCG@10 has not risen for {self.progress.bad} validations" if stopped else "all epochs done"
        )
        state = "stopped_early" if stopped else "finished"
        status = {"reason": reason, "best_step": self.progress.best_step, "best_value": self.progress.best}
        self.folder.status(state, **status)
        return {"state": state} | status


def train_sft(config: RunConfig, report: Report, *, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Run SFT as the config says, below ``config.folder / "sft"``."""
    folder = stage_folder(config.folder / "sft")
    begun = folder.as_begun(config) if resume else config
    return launch(Sft(begun, folder), report, overwrite=overwrite, resume=resume)
