"""Examples -> ranked items, by constrained beam search: what validation, evaluation and recommendation share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.backends.policy import Policy
from recrl.data.ragged import Ragged
from recrl.groups.prompts import PromptBatch, Targets
from recrl.prompts.writer import Prompts
from recrl.rollout.beam import beam_search
from recrl.sids.trie import Trie


@dataclass(frozen=True)
class Ranking:
    """What a policy recommends.

    Attributes:
        items: [U, K] item indices, best first, -1 where there are fewer legal ones.
        scores: [U, K] natural log-probabilities, -inf there.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]

    def without(self, histories: Ragged) -> Ranking:
        """Items of every row's history are gone, and those behind them move up."""
        rows = np.arange(len(histories))
        items = 1 + max(self.items.max(initial=0), histories.values.max(initial=0))
        held = np.repeat(rows, histories.lengths) * items + histories.values
        gone = np.isin(rows[:, None] * items + self.items, held) & (self.items >= 0)
        order = np.argsort(gone, axis=1, kind="stable")
        left = np.where(gone, -1, self.items)
        scores = np.where(gone, np.float32(-np.inf), self.scores)
        return Ranking(np.take_along_axis(left, order, 1), np.take_along_axis(scores, order, 1))

    @classmethod
    def join(cls, parts: list[Ranking]) -> Ranking:
        """Rows concatenated."""
        return cls(np.concatenate([part.items for part in parts]), np.concatenate([part.scores for part in parts]))

    def first(self, k: int) -> Ranking:
        """The best ``k`` of every row."""
        return Ranking(self.items[:, :k], self.scores[:, :k])


@dataclass(frozen=True)
class PromptTable:
    """Prompts in rows, and what an answer is measured by.

    Attributes:
        ids: token ids; ``Prompts`` bring their candidates along.
        targets: of every prompt, on the CPU.
        history: items that the user took, as many as a prompt may show.
        root: [rows] number of the trie's root that a response begins at.
        sequence: [rows] training sequence that a prompt was cut from, -1 for none; None for others' histories.
    """

    ids: Ragged
    targets: Targets
    history: Ragged
    root: NDArray[np.int64]
    sequence: NDArray[np.int64] | None = None

    @classmethod
    def without_targets(cls, ids: Ragged) -> PromptTable:
        """Prompts whose answers nobody measures."""
        rows = len(ids)
        targets = Targets(torch.full((rows, 1), -1), torch.full((rows, 1, 1), -1))
        return cls(ids, targets, Ragged.empty(rows), np.zeros(rows, np.int64))

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: NDArray[np.int64], device: torch.device) -> PromptBatch:
        """Some rows as a padded batch."""
        ids, history = self.ids.select(rows), self.history.select(rows)
        pool, recalled = (ids.pool, ids.recalled) if isinstance(ids, Prompts) else (None, None)
        return PromptBatch(
            torch.from_numpy(ids.padded(0)).to(device),
            torch.from_numpy(ids.lengths).to(device),
            Targets(self.targets.items[rows].to(device), self.targets.codes[rows].to(device)),
            torch.from_numpy(history.padded(-1).astype(np.int64)).to(device),
            torch.from_numpy(self.root[rows]).to(device),
            None if pool is None else torch.from_numpy(pool.padded(-1)).to(device),
            None if recalled is None else recalled.tensors(device),
            None if self.sequence is None else torch.from_numpy(self.sequence[rows]).to(device),
        )


def padded_targets(targets: Ragged, codes: Tensor) -> Targets:
    """[B, S] items and [B, S, L] codes, padded with -1."""
    items = targets.padded(-1)
    if not items.shape[1]:
        items = np.full((len(targets), 1), -1)
    # In numpy, since the next step's prompts are made in a thread of their own: a large torch op there would start a
    # second team of OpenMP threads, beside which those of the training step are slower ever after.
    own = np.where((items >= 0)[..., None], codes.numpy()[np.maximum(items, 0)], -1)
    return Targets(torch.from_numpy(items), torch.from_numpy(own))


def length_batches(ids: Ragged, token_budget: int, width: int) -> list[NDArray[np.int64]]:
    """Rows of like length together; a batch holds at most ``token_budget`` prompt and beam tokens, as padded."""
    lengths = ids.lengths
    order = np.argsort(lengths, kind="stable")
    batches, begin = [], 0
    for place in range(1, len(order) + 1):
        full = place == len(order) or (lengths[order[place]] + width) * (place - begin + 1) > token_budget
        if full:
            batches.append(order[begin:place])
            begin = place
    return batches


@dataclass(frozen=True)
class Slates:
    """How lists come of a model that was trained to name several items at once.

    ``beams`` slates of ``size`` items, best first; their items, concatenated, are the list, without repetitions
    (papers.md A-7, K above L).
    """

    size: int
    beams: int


@torch.no_grad()
def rank_slates(policy: Policy, trie: Trie, prompts: Ragged, slates: Slates, k: int) -> Ranking:
    """The first ``k`` distinct items of every prompt's slates; an item's score is that of its slate."""
    items = np.full((len(prompts), k), -1, np.int64)
    scores = np.full((len(prompts), k), -np.inf, np.float32)
    table = PromptTable.without_targets(prompts)
    for rows in length_batches(prompts, policy.token_budget, slates.beams * slates.size):
        found = beam_search(policy, trie, table.batch(rows, policy.device), slates.beams, slates.size)
        flat = found.items.flatten(1).cpu().numpy()
        score = np.repeat(torch.where(found.exists, found.score, float("-inf")).cpu().numpy(), slates.size, axis=1)
        items[rows], scores[rows] = first_distinct(flat, score, k)
    return Ranking(items, scores)


def first_distinct(
    items: NDArray[np.int64], scores: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """[U, k] the first distinct valid items of [U, W] and their scores, -1 and -inf behind them."""
    same = items[:, :, None] == items[:, None, :]
    again = (same & np.tri(items.shape[1], k=-1, dtype=bool)).any(2)
    usable = (items >= 0) & ~again
    order = np.argsort(~usable, axis=1, kind="stable")[:, :k]
    real = np.take_along_axis(usable, order, 1)
    chosen = np.where(real, np.take_along_axis(items, order, 1), -1)
    score = np.where(real, np.take_along_axis(scores, order, 1), np.float32(-np.inf))
    pad = ((0, 0), (0, k - order.shape[1]))
    return np.pad(chosen, pad, constant_values=-1), np.pad(score, pad, constant_values=-np.inf)


@torch.no_grad()
def rank(policy: Policy, trie: Trie, prompts: Ragged, width: int, k: int) -> Ranking:
    """The first ``k`` of ``width`` beams for every prompt, in the prompts' order.

    Args:
        policy: its model is in evaluation mode.
        trie: of item responses.
        prompts: token ids.
        width: beams, at least ``k``.
        k: items kept.
    """
    if width < k:
        raise ValueError(f"{k} items need as many beams, not {width}")
    items = np.full((len(prompts), k), -1, np.int64)
    scores = np.full((len(prompts), k), -np.inf, np.float32)
    table = PromptTable.without_targets(prompts)
    for rows in length_batches(prompts, policy.token_budget, width):
        found = beam_search(policy, trie, table.batch(rows, policy.device), width)
        kept = min(k, found.items.shape[1])
        items[rows, :kept] = found.items[:, :kept, 0].cpu().numpy()
        score = torch.where(found.exists, found.score, float("-inf"))
        scores[rows, :kept] = score[:, :kept].cpu().numpy()
    return Ranking(items, scores)
