"""Examples -> token ids: one template for SFT, RL and evaluation (papers.md C-2).

Text names an item as ``<|item:INDEX|>``; the writer puts the item's SID tokens in its place. Plain histories take a
path without text, vectorised over the whole data set.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from recrl.data.dataset import Catalog, Examples, Sequences
from recrl.data.ragged import Ragged
from recrl.errors import UserError
from recrl.memory.recall import Memory, Recollections
from recrl.prompts.templates import TEMPLATES, Template
from recrl.sids.codes import SidIndex
from recrl.sids.tokens import sid_token_ids

MARK_LIKE = re.compile(r"<(\||[a-z]_\d+>)")
ITEM_MARK = re.compile(r"<\|item:(\d+)\|>")
LINE = "\n"
MARKS = 4
"""Entries of a tokenizer that knows no words: begin, end, padding, unknown."""
DESCRIPTION_WORDS = 12
"""Of an item's description in RecLLM's prompt."""
LABELS = ("否", "是")
"""Answers of label prediction, by label (OpenOneRec's words for no and yes)."""
TITLE_RESPONSES = frozenset({"sid_to_title", "sids_to_title"})
"""Tasks that a title answers whatever names items elsewhere; it is closed by the end token."""
ITEM_TASKS = frozenset({"sid_to_title", "title_to_sid", "description_to_sid"})
"""Tasks about one item; the others are about a history."""
CONTINUED = frozenset({"next", "slate"})
"""Tasks whose response continues a plain history."""
POOLED = frozenset({"next", "slate", "titles_to_sid", "sids_to_title"})
"""Tasks whose prompts show candidates, where there are any: those that the template writes about a history."""


class Retriever(Protocol):
    """Finds the candidates that prompts show (``recrl.baselines.pools``)."""

    @property
    def size(self) -> int:
        """Candidates a history."""

    def pools(self, histories: Ragged, own: Sequences | None = None) -> Ragged:
        """Candidates of every history; ``own`` are the training sequences that they were cut from."""


def plain(text: str) -> str:
    """Text of the catalogue without anything that the tokenizer, or the writer, would take for a mark."""
    return MARK_LIKE.sub(r"< \1", text)


def item_mark(item: int) -> str:
    """How text names an item."""
    return f"<|item:{item}|>"


@dataclass(frozen=True)
class Prompts(Ragged):
    """Token ids of prompts, and what they may be answered with.

    Attributes:
        pool: [rows] candidates that a prompt shows; an empty row, and None for all rows, is the whole catalogue.
        recalled: what the memory knows of every row; None without a memory.
    """

    pool: Ragged | None = None
    recalled: Recollections | None = None

    def select(self, rows: NDArray[np.int64]) -> Prompts:
        """The named rows with all that belongs to them, in the order named."""
        ids = super().select(rows)
        pool = None if self.pool is None else self.pool.select(rows)
        return Prompts(ids.values, ids.offsets, pool, None if self.recalled is None else self.recalled.select(rows))


@dataclass(frozen=True)
class PromptWriter:
    """Turns examples of one catalogue into token ids of one tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    index: SidIndex
    catalog: Catalog
    template: Template
    history_limit: int
    sid_ids: Ragged  # [items] token ids of every item's SID
    by_title: bool = False  # titles name the items of histories and responses
    slate_size: int = 1
    retriever: Retriever | None = None  # finds the candidates that prompts show; None: they show none
    memory: Memory | None = None  # weighs on the responses

    @classmethod
    def make(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        index: SidIndex,
        catalog: Catalog,
        template: str,
        history_limit: int,
        *,
        by_title: bool = False,
        slate_size: int = 1,
    ) -> PromptWriter:
        """Check that the tokenizer can write what the action space asks for.

        Raises:
            UserError: it lacks the SIDs, or the words of titles.
        """
        ids = sid_token_ids(tokenizer, index)
        writer = cls(tokenizer, index, catalog, TEMPLATES[template], history_limit, ids, by_title, slate_size)
        if by_title and not writer.knows_words:
            raise UserError(
                "prompts.action_space = 'title'",
                why="the model's tokenizer knows SIDs alone",
                fix="set model.text_vocab_size (4000, say), or start from a model that reads text",
            )
        return writer

    @property
    def knows_words(self) -> bool:
        """The tokenizer has more than the marks and SIDs that every one has."""
        return int(self.tokenizer.vocab_size) > MARKS

    @property
    def looks_things_up(self) -> bool:
        """Whether something fitted on the training sequences is asked about histories."""
        return self.retriever is not None or self.memory is not None

    @property
    def is_plain(self) -> bool:
        """Whether a history's tokens are what names its items and nothing else."""
        return self.template.texts["next"] == "{history}"

    @property
    def bos(self) -> list[int]:
        return [] if self.tokenizer.bos_token_id is None else [int(self.tokenizer.bos_token_id)]

    @cached_property
    def names(self) -> Ragged:
        """[items] what names an item: its SID, or its title.

        A title is closed by a line break, which stands in no title, so that no title is the beginning of another.
        """
        if not self.by_title:
            return self.sid_ids
        titles = self.bare([self.title(item) for item in range(len(self.catalog))])
        return concatenate(titles, _repeated(self.bare([LINE])[0].tolist(), len(titles)))

    def responses(self) -> Ragged:
        """[items] what a response to an item is: its name, and behind a SID the end token if the template wants one."""
        if self.by_title or not self.template.end:
            return self.names
        return append(self.names, int(self.tokenizer.eos_token_id))

    def histories(self, items: Ragged) -> Ragged:
        """Token ids of ``[bos]`` and the names of every row's items, without a limit."""
        return prepend(self._named(items), self.bos)

    def _named(self, items: Ragged) -> Ragged:
        rows = self.names.select(items.values.astype(np.int64))
        return Ragged(rows.values, rows.offsets[items.offsets])

    def prompts(self, examples: Examples, own: Sequences | None = None) -> Prompts:
        """Token ids of every example's prompt, its history cut to the limit.

        Args:
            own: the training sequences that the examples were cut from, row by row; None for others' examples.
        """
        history = examples.history.tail(self.history_limit)
        pool = self._pool(examples, history, own)
        goes_on = [
            self.is_plain and task in CONTINUED and not text
            for task, text in zip(examples.tasks, examples.prompts, strict=True)
        ]
        named, written = np.flatnonzero(goes_on), np.flatnonzero(np.logical_not(goes_on))
        texts = [
            self._given(examples.prompts[row])
            or self.text(examples.tasks[row], history[row], examples.targets[row], None if pool is None else pool[row])
            for row in map(int, written)
        ]
        plain = self._continued(history.select(named), None if pool is None else pool.select(named))
        both = Ragged.join([plain, self.encode(texts)])
        ids = both.select(np.argsort(np.concatenate([named, written])))
        recalled = None if self.memory is None else self.memory.recall(examples.history, own)
        return Prompts(ids.values, ids.offsets, pool, recalled)

    def _continued(self, history: Ragged, pool: Ragged | None) -> Ragged:
        """Plain histories, behind their candidates and the end token: a response goes on from a history as ever."""
        if pool is None:
            return self.histories(history)
        return concatenate(append(self.histories(pool), int(self.tokenizer.eos_token_id)), self._named(history))

    def _pool(self, examples: Examples, history: Ragged, own: Sequences | None) -> Ragged | None:
        """[rows] candidates, none for tasks that show none and where the prompt came with the data."""
        if self.retriever is None:
            return None
        shown = np.array(
            [task in POOLED and not text for task, text in zip(examples.tasks, examples.prompts, strict=True)], bool
        )
        rows = np.flatnonzero(shown)
        found = self.retriever.pools(history.select(rows), None if own is None else own.select(rows))
        return Ragged(found.values, np.append(0, np.cumsum(np.where(shown, self.retriever.size, 0))))

    def _given(self, text: str) -> str:
        """A prompt that came with the data; in the title space titles name its items."""
        return ITEM_MARK.sub(lambda mark: self.title(int(mark[1])), text) if self.by_title else text

    def text(
        self, task: str, history: NDArray[np.int32], target: NDArray[np.int32], pool: NDArray[np.int32] | None = None
    ) -> str:
        """The prompt of one example, items as marks; an empty pool or none shows no candidates."""
        item, candidates = int(target[0]) if len(target) else -1, () if pool is None else pool
        writers: dict[str, Callable[[], str]] = {
            "history": lambda: self.listed(history),
            "candidates": lambda: self.listed(candidates),
            "titles": lambda: self._titles(history),
            "topics": lambda: self.topics(history),
            "count": lambda: str(self.slate_size),
            "sid": lambda: item_mark(item),
            "title": lambda: self.title(item),
            "description": lambda: plain(self.catalog.descriptions[item] or self.catalog.titles[item]),
        }
        pattern = self.template.text(task, pooled=len(candidates) > 0)
        # Only the fields that the template names are written: a title must not leak into a prompt that asks for it.
        return pattern.format(**{name: write() for name, write in writers.items() if f"{{{name}}}" in pattern})

    def listed(self, items: Iterable[int]) -> str:
        """Items by the names that the action space has for them."""
        return self._titles(items) if self.by_title else self.template.separator.join(item_mark(int(i)) for i in items)

    def _titles(self, items: Iterable[int]) -> str:
        return "; ".join(self.title(int(item)) for item in items)

    def title(self, item: int) -> str:
        """An item's title on one line, its id where it has none; composed, as tokenizers may compose it themselves."""
        words = plain(self.catalog.titles[item]).split() or [plain(self.catalog.item_ids[item])]
        return unicodedata.normalize("NFC", " ".join(words))

    def topics(self, history: NDArray[np.int32]) -> str:
        """RecLLM's history (papers.md A-7): a sentence a category, in the order in which the user came to them.

        Every item with its title, its brand and the beginning of its description, oldest first; with SIDs its SID
        besides.
        """
        catalog = self.catalog
        sentences: dict[str, list[str]] = {}
        for entry in map(int, history):
            words = " ".join(plain(catalog.descriptions[entry]).split()[:DESCRIPTION_WORDS])
            more = ", ".join(part for part in (plain(catalog.brands[entry]), words) if part)
            name = self.title(entry) if self.by_title else f"{item_mark(entry)} {self.title(entry)}"
            told = f"{name} ({more})" if more else name
            sentences.setdefault(plain(catalog.categories[entry]) or "other items", []).append(told)
        return " ".join(f"In {topic} the user took {'; '.join(items)}." for topic, items in sentences.items())

    def encode(self, texts: Sequence[str]) -> Ragged:
        """Token ids of texts with item marks, ``[bos]`` first where the tokenizer has one.

        Raises:
            UserError: a text holds words and the tokenizer knows none.
        """
        if not texts:
            return Ragged.from_lists([])
        if not self.knows_words:
            raise UserError(
                "the prompts hold text",
                why="the model's tokenizer knows SIDs alone",
                fix="set model.text_vocab_size (4000, say), or use prompts.template = 'plain' and the task 'next'",
            )
        named = [ITEM_MARK.sub(lambda mark: "".join(self.index.tokens(int(mark[1]))), text) for text in texts]
        encoded = self.tokenizer(named, add_special_tokens=False)["input_ids"]
        return prepend(Ragged.from_lists(encoded), self.bos)

    def label_token(self, label: int) -> int:
        """The first token of a label's word."""
        return int(self.encode([LABELS[label]])[0][len(self.bos)])

    def texts(self, texts: Sequence[str]) -> Ragged:
        """Token ids of responses, closed by the end token."""
        return append(self.bare(texts), int(self.tokenizer.eos_token_id))

    def bare(self, texts: Sequence[str]) -> Ragged:
        """Token ids of texts and nothing around them."""
        encoded = self.encode(texts)
        return encoded.cut(np.full(len(encoded), len(self.bos)), encoded.lengths)

    def titles(self, items: NDArray[np.int64]) -> Ragged:
        """Token ids of titles, closed by the end token."""
        return self.texts([self.title(int(item)) for item in items])


def prepend(rows: Ragged, tokens: list[int]) -> Ragged:
    """Every row with ``tokens`` before it."""
    return concatenate(_repeated(tokens, len(rows)), rows)


def append(rows: Ragged, token: int) -> Ragged:
    """Every row with ``token`` behind it."""
    return concatenate(rows, _repeated([token], len(rows)))


def concatenate(left: Ragged, right: Ragged) -> Ragged:
    """Row by row."""
    offsets = left.offsets + right.offsets
    values = np.empty(offsets[-1], np.int32)
    for part, shift in ((left, np.zeros(len(left), np.int64)), (right, left.lengths)):
        begins = offsets[:-1] + shift
        values[np.repeat(begins - part.offsets[:-1], part.lengths) + np.arange(len(part.values))] = part.values
    return Ragged(values, offsets)


def _repeated(tokens: list[int], rows: int) -> Ragged:
    return Ragged(np.tile(np.asarray(tokens, np.int32), rows), np.arange(rows + 1, dtype=np.int64) * len(tokens))
