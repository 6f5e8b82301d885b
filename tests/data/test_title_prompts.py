"""Prompts and names in the native-text action space, and the prompts of slates, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recrl.baselines.pools import Retriever
from recrl.data.dataset import Catalog, Examples, Sequences
from recrl.data.ragged import Ragged
from recrl.errors import UserError
from recrl.models.presets import preset_tokenizer
from recrl.prompts.writer import PromptWriter, item_mark
from recrl.sids.codes import with_suffixes
from recrl.sids.tokens import add_sid_tokens
from recrl.sids.trie import build_trie

LONG = "It comes in a box of twelve and is made of wood that was grown nearby"
CATALOG = Catalog(
    ["a", "b", "c", "d", "e"],
    ["Red ball", "Red\nball\tgame", "Red ball", "", "Doll (large)"],
    ["round", LONG, "", "soft", ""],
    ["", "Acme", "Ballo", "", "Acme"],
    ["Balls", "Games", "Balls", "", "Dolls"],
)
NAMES = ["Red ball", "Red ball game", "Red ball", "d", "Doll (large)"]
INDEX = with_suffixes(np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, 0]], np.int32), (2, 2))


def writer(template: str, *, by_title: bool = True, words: int = 300, slate_size: int = 6) -> PromptWriter:
    tokenizer = preset_tokenizer([*NAMES, LONG], words)
    add_sid_tokens(tokenizer, INDEX)
    return PromptWriter.make(tokenizer, INDEX, CATALOG, template, 4, by_title=by_title, slate_size=slate_size)


def examples(task: str, prompt: str = "") -> Examples:
    made = Examples.plain(np.zeros(1, np.int32), Ragged.from_lists([[3, 0, 1, 4, 2]]), Ragged.from_lists([[0]]))
    return replace(made, tasks=[task], prompts=[prompt])


def written(made: PromptWriter, task: str, prompt: str = "") -> str:
    """The prompt as the model reads it, the mark at its begin left out."""
    (ids,) = made.prompts(examples(task, prompt))
    assert ids[0] == made.tokenizer.bos_token_id
    text: str = made.tokenizer.decode(ids[1:])
    return text


def sid(item: int) -> str:
    return "".join(INDEX.tokens(item))


def test_a_title_is_one_line_closed_by_a_line_break() -> None:
    made = writer("instruct")
    names = [row.tolist() for row in made.responses()]
    assert [made.tokenizer.decode(row) for row in names] == [name + "\n" for name in NAMES]
    (close,) = made.bare(["\n"])[0]
    assert all(row.index(close) == len(row) - 1 for row in names)


def test_a_title_that_begins_another_is_legal_and_equal_ones_share_a_leaf() -> None:
    trie = build_trie(writer("plain").responses())
    assert trie.item[trie.leaf[0]].tolist() == [0, 1, 0, 3, 4]
    tokens, _ = trie.paths(torch.arange(5))
    assert tokens[0].tolist() == tokens[2].tolist() != tokens[1].tolist()


def test_equal_titles_in_two_spellings_of_unicode_are_equal() -> None:
    catalog = replace(CATALOG, titles=["Caf\u00e9", "Cafe\u0301", *CATALOG.titles[2:]])
    made = replace(writer("plain"), catalog=catalog)
    assert made.title(0) == made.title(1)
    assert made.names[0].tolist() == made.names[1].tolist()


def test_a_plain_history_is_titles_line_by_line_for_whatever_continues_it() -> None:
    made = writer("plain")
    assert written(made, "next") == written(made, "slate") == "Red ball\nRed ball game\nDoll (large)\nRed ball\n"
    (ids,) = made.prompts(examples("slate"))
    assert ids[1:].tolist() == [int(token) for item in (0, 1, 4, 2) for token in made.responses()[item]]


def test_a_plain_history_stays_the_same_beside_other_tasks() -> None:
    made = writer("plain")
    mixed = Examples.join([examples("description_to_sid"), examples("next"), examples("titles_to_sid")])
    rows = [row.tolist() for row in made.prompts(mixed)]
    assert rows[1] == made.prompts(examples("next"))[0].tolist()
    assert made.tokenizer.decode(rows[0][1:]) == "description: round sid:"


def test_recllms_prompt_tells_topics_oldest_first_with_tags_and_a_short_description() -> None:
    assert written(writer("instruct"), "slate") == (
        "### Input:\n"
        "In Balls the user took Red ball (round); Red ball (Ballo). "
        "In Games the user took Red ball game (Acme, It comes in a box of twelve and is made of wood). "
        "In Dolls the user took Doll (large) (Acme).\n"
        "List the 6 items that the user takes next, best first.\n"
        "### List:\n"
    )


def test_an_item_without_a_category_is_of_another_topic() -> None:
    made = writer("instruct", slate_size=2)
    told = made.topics(np.array([3, 0], np.int32))
    assert told == "In other items the user took d (soft). In Balls the user took Red ball (round)."


def test_with_sids_every_item_of_a_slates_prompt_bears_its_sid() -> None:
    assert written(writer("instruct", by_title=False, slate_size=2), "slate") == (
        "### Input:\n"
        f"In Balls the user took {sid(0)} Red ball (round); {sid(2)} Red ball (Ballo). "
        f"In Games the user took {sid(1)} Red ball game (Acme, It comes in a box of twelve and is made of wood). "
        f"In Dolls the user took {sid(4)} Doll (large) (Acme).\n"
        "List the 2 items that the user takes next, best first.\n"
        "### List:\n"
    )
    assert written(writer("plain", by_title=False), "slate") == "".join(sid(item) for item in (0, 1, 4, 2))


@pytest.mark.parametrize("by_title", [False, True], ids=["sid", "title"])
def test_a_prompt_of_its_own_names_items_as_the_action_space_does(by_title: bool) -> None:
    own = f"who takes {item_mark(1)}?"
    shown = NAMES[1] if by_title else sid(1)
    assert written(writer("instruct", by_title=by_title), "slate", own) == f"who takes {shown}?"


def test_titles_need_a_tokenizer_that_knows_words() -> None:
    with pytest.raises(UserError, match="action_space = 'title'") as caught:
        writer("plain", words=0)
    assert "text_vocab_size" in str(caught.value)


class Rising:
    """A scorer that holds an item for better, the higher it stands in the catalogue."""

    def scores(self, histories: Ragged, own: Sequences | None = None) -> NDArray[np.float32]:  # noqa: ARG002
        return np.tile(np.arange(5, dtype=np.float32), (len(histories), 1))


def pooled(template: str = "instruct", *, by_rank: bool = True, **options: Any) -> PromptWriter:
    made = writer(template, **options)
    names = np.array([0, 1, 0, 3, 4]) if made.by_title else np.arange(5)
    return replace(made, retriever=Retriever(Rising(), Rising(), names, 2, by_rank=by_rank))


def short(*tasks: str, prompt: str = "") -> Examples:
    """A prompt a task after items 1 and 4."""
    rows = len(tasks)
    history = Ragged.from_lists([[1, 4]] * rows)
    made = Examples.plain(np.zeros(rows, np.int32), history, Ragged.from_lists([[0]] * rows))
    return replace(made, tasks=[*tasks], prompts=[prompt] * rows)


def read(made: PromptWriter, examples: Examples) -> list[str]:
    return [made.tokenizer.decode(ids[1:]) for ids in made.prompts(examples)]


def test_candidates_stand_between_what_is_asked_and_the_response() -> None:
    sids = pooled(by_title=False, slate_size=2)
    assert read(sids, short("next", "sids_to_title", "titles_to_sid")) == [
        f"### Input:\nThe user took these items, oldest first: {sid(1)}, {sid(4)}\n"
        f"The candidates are: {sid(3)}, {sid(2)}\n### Next item:\n",
        f"### Input:\nThe user took these items, oldest first: {sid(1)}, {sid(4)}\n"
        f"The candidates are: {sid(3)}, {sid(2)}\n### Title of the next:\n",
        "### Input:\nThe user took these items, oldest first: Red ball game; Doll (large)\n"
        f"The candidates are: {sid(3)}, {sid(2)}\n### Next item:\n",
    ]
    titles = pooled(by_title=True, slate_size=2)
    (text,) = read(titles, short("slate"))
    asked = "List the 2 items that the user takes next, best first.\n"
    assert text.endswith(f"{asked}The candidates are: d; Red ball\n### List:\n")
    (text,) = read(pooled(by_title=True, by_rank=False), short("next"))
    assert text.endswith("The candidates are: Red ball; d\n### Next item:\n")


def test_what_is_no_prompt_of_the_template_about_a_history_shows_no_candidates() -> None:
    made, none = pooled(by_title=False), writer("instruct", by_title=False)
    mixed = Examples.join([short("title_to_sid", "next", "description_to_sid"), short("next", prompt="and now?")])
    prompts, plain = made.prompts(mixed), none.prompts(mixed)
    assert prompts.pool is not None
    assert plain.pool is None
    assert [row.tolist() for row in prompts.pool] == [[], [3, 2], [], []]
    same = [one.tolist() == other.tolist() for one, other in zip(prompts, plain, strict=True)]
    assert same == [True, False, True, True]


def test_candidates_are_those_of_the_history_that_is_shown() -> None:
    made = replace(pooled(by_title=False), history_limit=1)
    pool = made.prompts(short("next")).pool
    assert pool is not None
    assert pool[0].tolist() == [3, 2]
    longer = replace(short("next"), history=Ragged.from_lists([[4, 3, 2]]))
    pool = made.prompts(longer).pool
    assert pool is not None
    assert pool[0].tolist() == [4, 3]  # the first two are not shown
