"""Training rows of SFT: token ids, and from which token on the model is scored.

A plain history is one row in which every position is a target; a prompt with a response is a row in which the response
is. Nothing is computed twice: no prompt is copied per target.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.baselines import pools
from recrl.data.categories import category_codes
from recrl.data.dataset import Dataset, Examples, Sequences
from recrl.data.examples import filled, item_examples, next_examples, windows, with_target
from recrl.data.ragged import Ragged
from recrl.errors import UserError
from recrl.groups.packed import token_cuts
from recrl.prompts.writer import ITEM_TASKS, LABELS, TITLE_RESPONSES, PromptWriter, append, concatenate, prepend
from recrl.seeding import generator
from recrl.sids.trie import Trie
from recrl.training import feedback
from recrl.training.augment import augment
from recrl.training_sections import SftSection


@dataclass(frozen=True)
class Rows:
    """Rows of one epoch.

    Attributes:
        ids: token ids.
        nodes: trie node that each token was chosen at, -1 for text and for ``[bos]``.
        items: item after which each token is weighted, -1 where none is: there the weight is 1.
        first_scored: [rows] place of the first token that is a target; all behind it are.
    """

    ids: Ragged
    nodes: Ragged
    items: Ragged
    first_scored: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: NDArray[np.int64]) -> Rows:
        ids, nodes, items = (of_token.select(rows) for of_token in (self.ids, self.nodes, self.items))
        return Rows(ids, nodes, items, self.first_scored[rows])

    def micro_batches(self, token_budget: int) -> list[Rows]:
        """Neighbouring rows, at most ``token_budget`` tokens together; at least one row each."""
        stops = token_cuts(self.ids.lengths.tolist(), token_budget)
        return [self.select(np.arange(begin, stop)) for begin, stop in pairwise([0, *stops])]

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """[T] ids, [T] nodes, [T] items and [T] bool scored of all rows, concatenated, and [N] their lengths."""
        length = self.ids.lengths
        place = np.arange(len(self.ids.values)) - np.repeat(self.ids.offsets[:-1], length)
        scored = place >= np.repeat(self.first_scored, length)
        of_tokens = [of_token.values.astype(np.int64) for of_token in (self.ids, self.nodes, self.items)]
        ids, nodes, items, targets, lengths = (torch.from_numpy(array) for array in (*of_tokens, scored, length))
        return ids, nodes, items, targets, lengths


@dataclass(frozen=True)
class RowMaker:
    """Writes the rows of any epoch of one run; epoch ``e`` is the same whenever it is asked for."""

    dataset: Dataset
    writer: PromptWriter
    item_nodes: Ragged  # [items] trie nodes at which the tokens of an item's response are chosen
    responses: Ragged  # [items] token ids of an item's response
    options: SftSection
    seed: int
    fed_back: Examples  # of an earlier RL

    @classmethod
    def make(cls, dataset: Dataset, writer: PromptWriter, trie: Trie, options: SftSection, seed: int) -> RowMaker:
        """Check that the data can serve the tasks.

        Raises:
            UserError: there is nothing to train on.
        """
        responses = writer.responses()
        if not len(dataset.train) and not len(dataset.train_examples):
            raise UserError(
                f"the data set {dataset.meta.get('source', '')} has no training rows",
                why="its source came without a train split",
                fix="prepare it again with the train files beside valid and test",
            )
        fed_back = Examples.empty()
        if options.feedback is not None:
            fed_back = feedback.load(options.feedback, dataset, writer.slate_size)
        return cls(dataset, writer, nodes_of(trie, responses), responses, options, seed, fed_back)

    def epoch(self, number: int) -> Rows:
        """All rows of an epoch, every task as often as its weight says, and what RL gave back."""
        parts = [
            rows
            for task, weight in sorted(self.options.tasks.items())
            for copy in range(int(np.ceil(weight)))
            if (rows := self._task(task, min(1.0, weight - copy), number, copy)) is not None
        ]
        if len(self.fed_back):
            parts.append(self._responses(self.fed_back, generator(self.seed, "rows", "feedback", number)))
        if not any(map(len, parts)):
            raise UserError(
                "sft.tasks gives no rows",
                why="every weight is 0, the data lacks them, or no target is among its prompt's candidates",
                fix="raise a weight, or prompts.pool",
            )
        return _stack(parts)

    def batches(self, number: int, rows: Rows) -> list[NDArray[np.int64]]:
        """Row numbers of every batch of an epoch.

        The order is a plain permutation: batches of like lengths would pad less where padding is left, and train worse.
        """
        size = self.options.batch_size
        order = generator(self.seed, "batches", number).permutation(len(rows))
        return [order[begin : begin + size] for begin in range(0, len(order), size)]

    def _task(self, task: str, share: float, epoch: int, copy: int) -> Rows | None:
        rng = generator(self.seed, "rows", task, epoch, copy)
        if task == "recif":
            return self._examples(self.dataset.train_examples, share, rng)
        if task == "next" and self.writer.is_plain and self.writer.retriever is None:
            return self._sequences(_part(self.dataset.train, share, rng), rng)
        if task in ITEM_TASKS:
            return self._examples(item_examples(len(self.dataset.catalog), task), share, rng)
        count = self.writer.slate_size if task == "slate" else 1
        train = self.dataset.train
        examples = next_examples(train, task, rng, count)
        if self.options.label_fill == "tag":
            examples = filled(examples, category_codes(self.dataset.catalog.categories), count, rng)
        own = train.select(with_target(train)) if self.writer.retriever else None
        return self._examples(examples, share, rng, own)

    def _sequences(self, sequences: Sequences, rng: np.random.Generator) -> Rows | None:
        rows = windows(augment(sequences, self.options.augment, rng), self.writer.history_limit)
        if not len(rows):
            return None
        ids = self.writer.histories(rows.items)
        bos = [-1] * len(self.writer.bos)
        _, nodes, items = (prepend(of_token, bos) for of_token in self._tokens_of(rows.items))
        tokens = np.append(0, np.cumsum(self.responses.lengths[rows.items.values]))
        before = tokens[rows.items.offsets[:-1] + rows.first_target] - tokens[rows.items.offsets[:-1]]
        return Rows(ids, nodes, items, before + len(self.writer.bos))

    def _tokens_of(self, lists: Ragged) -> tuple[Ragged, Ragged, Ragged]:
        """Of the tokens that name lists of items, concatenated: the ids, the trie nodes and the items of each list.

        Every item begins at the root again.
        """
        chosen = lists.values.astype(np.int64)
        ids, nodes = self.responses.select(chosen), self.item_nodes.select(chosen)
        offsets = ids.offsets[lists.offsets]
        items = np.repeat(lists.values, ids.lengths)
        return Ragged(ids.values, offsets), Ragged(nodes.values, offsets), Ragged(items, offsets)

    def _examples(
        self, examples: Examples, share: float, rng: np.random.Generator, own: Sequences | None = None
    ) -> Rows | None:
        """``own`` are the sequences that the examples were cut from, for those that may show candidates."""
        chosen = np.sort(rng.permutation(len(examples))[: round(share * len(examples))])
        labelled = examples.labels[chosen] >= 0
        parts = [
            self._responses(examples.select(rows), rng, None if own is None else own.select(rows))
            for rows in (chosen[~labelled], chosen[labelled])
            if len(rows)
        ]
        return _stack(parts) if parts else None

    def _responses(self, examples: Examples, rng: np.random.Generator, own: Sequences | None = None) -> Rows:
        """Prompts with one response each: a list of items, an item, its title, or a label's word; one kind a call.

        Where candidates are shown and no target is among them, no response could name it, and the row is left out.
        """
        prompts, task = self.writer.prompts(examples, own), examples.tasks[0]
        if prompts.pool is not None:
            answerable = np.flatnonzero(pools.recall(prompts.pool, examples.targets) != 0)
            prompts, examples = prompts.select(answerable), examples.select(answerable)
        if task == "slate":  # closed by the end token (papers.md A-7)
            named = self._tokens_of(examples.targets)
            ends = (int(self.writer.tokenizer.eos_token_id), -1, -1)
            return _answered(prompts, *(append(part, end) for part, end in zip(named, ends, strict=True)))
        targets = _one_target(examples.targets, rng)
        if (examples.labels >= 0).all():
            words = self.writer.texts([LABELS[label] for label in examples.labels])
            return _answered(prompts, words, _blank(words), _blank(words))
        if task in TITLE_RESPONSES:
            responses = self.writer.titles(targets)
            nodes = _blank(responses)
            items = Ragged(np.repeat(targets.astype(np.int32), responses.lengths), responses.offsets)
        else:
            responses, nodes, items = self._tokens_of(Ragged(targets.astype(np.int32), np.arange(len(targets) + 1)))
        # An epoch of these tasks shows every item once, so there is no frequency to correct for.
        return _answered(prompts, responses, nodes, _blank(items) if task in ITEM_TASKS else items)


def nodes_of(trie: Trie, responses: Ragged) -> Ragged:
    """For every token of every response the trie node that it is chosen at."""
    padded = responses.padded(-1)
    real = padded >= 0
    tokens = torch.from_numpy(np.maximum(padded, 0))
    node = torch.zeros(len(responses), dtype=torch.long)
    nodes = np.full(real.shape, -1, np.int32)
    for position in range(real.shape[1]):
        nodes[:, position] = node.numpy()
        alive = torch.from_numpy(real[:, position])
        node = torch.where(alive, trie.step(node, tokens[:, position]), node)
    return Ragged(nodes[real], responses.offsets)


def _part(sequences: Sequences, share: float, rng: np.random.Generator) -> Sequences:
    if share >= 1:
        return sequences
    rows = np.sort(rng.permutation(len(sequences))[: round(share * len(sequences))])
    return sequences.select(rows)


def _blank(rows: Ragged) -> Ragged:
    """No trie node anywhere."""
    return Ragged(np.full_like(rows.values, -1), rows.offsets)


def _answered(prompts: Ragged, responses: Ragged, nodes: Ragged, items: Ragged) -> Rows:
    """Prompts with their responses, of whose tokens ``nodes`` and ``items`` are."""
    blank = _blank(prompts)
    return Rows(concatenate(prompts, responses), concatenate(blank, nodes), concatenate(blank, items), prompts.lengths)


def _one_target(targets: Ragged, rng: np.random.Generator) -> NDArray[np.int64]:
    """One of every row's targets."""
    place = (rng.random(len(targets)) * targets.lengths).astype(np.int64)
    chosen: NDArray[np.int64] = targets.values[targets.offsets[:-1] + place].astype(np.int64)
    return chosen


def _stack(parts: list[Rows]) -> Rows:
    return Rows(
        Ragged.join([part.ids for part in parts]),
        Ragged.join([part.nodes for part in parts]),
        Ragged.join([part.items for part in parts]),
        np.concatenate([part.first_scored for part in parts]),
    )
