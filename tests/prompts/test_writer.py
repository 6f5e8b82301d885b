"""Prompts: the plain fast path, templates, and that no prompt holds what it asks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from recrl.data.dataset import Catalog, Examples
from recrl.data.ragged import Ragged
from recrl.errors import UserError
from recrl.models.presets import preset_tokenizer
from recrl.prompts.writer import TEMPLATES, TITLE_RESPONSES, PromptWriter, append, concatenate, item_mark, prepend
from recrl.sids.codes import with_suffixes
from recrl.sids.tokens import add_sid_tokens

TITLES = ["Red hat", "Blue {hat}", "Green scarf", "Grey boots", "White gloves", "Black belt"]
DESCRIPTIONS = ["warm for winter", "", "soft", "sturdy", "thin", "long"]
CATALOG = Catalog([str(item) for item in range(6)], TITLES, DESCRIPTIONS, [""] * 6, [""] * 6)
CODES = np.array([[0, 1], [1, 1], [0, 1], [2, 0], [1, 2], [0, 0]], np.int32)  # items 0 and 2 share a path
INDEX = with_suffixes(CODES, (3, 3))
TASKS = ("sid_to_title", "title_to_sid", "titles_to_sid", "sids_to_title", "description_to_sid")


def tokenizer(text: bool) -> PreTrainedTokenizerBase:
    made = preset_tokenizer(TITLES + DESCRIPTIONS, 300 if text else 0)
    add_sid_tokens(made, INDEX)
    return made


def writer(template: str = "plain", *, text: bool = False, limit: int = 3) -> PromptWriter:
    return PromptWriter.make(tokenizer(text), INDEX, CATALOG, template, limit)


def examples(tasks: list[str] | None = None, prompts: list[str] | None = None) -> Examples:
    history = Ragged.from_lists([[0, 1, 2, 3, 4], [5], [2, 2]])
    made = Examples.plain(np.arange(3, dtype=np.int32), history, Ragged.from_lists([[5], [0], [1]]))
    return replace(made, tasks=tasks or made.tasks, prompts=prompts or made.prompts)


def sid_text(items: list[int]) -> str:
    return "".join("".join(INDEX.tokens(item)) for item in items)


def as_lists(rows: Ragged) -> list[list[int]]:
    return [row.tolist() for row in rows]


@pytest.mark.parametrize("text", [False, True], ids=["sids-alone", "bpe"])
def test_the_plain_path_without_text_equals_the_tokenizer(text: bool) -> None:
    made = writer(text=text)
    expected = [
        [made.tokenizer.bos_token_id, *made.tokenizer(sid_text(items))["input_ids"]]
        for items in ([2, 3, 4], [5], [2, 2])  # the last three
    ]
    assert as_lists(made.prompts(examples())) == expected


def test_the_plain_text_path_equals_the_fast_one() -> None:
    made = writer(text=True)
    marked = ["".join(item_mark(item) for item in items) for items in ([2, 3, 4], [5], [2, 2])]
    assert as_lists(made.prompts(examples(prompts=marked))) == as_lists(made.prompts(examples()))
    assert as_lists(made.encode(marked)) == as_lists(made.prompts(examples()))


def test_the_instruct_template_writes_history_between_its_words() -> None:
    made = writer("instruct", text=True)
    assert not made.is_plain
    ids = made.prompts(examples())[0]
    assert ids[0] == made.tokenizer.bos_token_id
    history = ", ".join(sid_text([item]) for item in (2, 3, 4))
    expected = f"### Input:\nThe user took these items, oldest first: {history}\n### Next item:\n"
    assert made.tokenizer.decode(ids[1:]) == expected


def test_a_prompt_of_its_own_wins_over_the_template_and_its_marks_become_sids() -> None:
    made = writer("instruct", text=True)
    own = f"who takes {item_mark(0)} and {item_mark(4)}?"
    ids = made.prompts(examples(prompts=[own, "", ""]))
    assert made.tokenizer.decode(ids[0][1:]) == f"who takes {sid_text([0])} and {sid_text([4])}?"
    assert "oldest first" in made.tokenizer.decode(ids[1])


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@pytest.mark.parametrize("task", [*TASKS, "next"])
def test_no_prompt_holds_what_it_asks_for(template: str, task: str) -> None:
    made = writer(template, text=True)
    history, target = np.array([0, 3], np.int32), np.array([1], np.int32)
    text = made.text(task, history, target)
    if task in TITLE_RESPONSES:
        assert TITLES[1] not in text
        assert DESCRIPTIONS[0] not in text
    else:
        assert item_mark(1) not in text
        assert sid_text([1]) not in text
    asked_of_history = task in {"next", "titles_to_sid", "sids_to_title"}
    shown = TITLES[0] if task == "titles_to_sid" else item_mark(0)
    assert (shown in text) == asked_of_history
    if asked_of_history:  # then nothing about the target at all
        assert not any(part in text for part in (TITLES[1], item_mark(1)))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("sid_to_title", "<|item:1|> title:"),
        ("title_to_sid", "item: Blue {hat} sid:"),
        ("titles_to_sid", "history: Red hat; Grey boots next:"),
        ("sids_to_title", "<|item:0|><|item:3|> next title:"),
        ("description_to_sid", "description: Blue {hat} sid:"),  # no description: the title (papers.md C-2)
    ],
)
def test_plain_texts_by_hand(task: str, expected: str) -> None:
    made = writer(text=True)
    assert made.text(task, np.array([0, 3], np.int32), np.array([1], np.int32)) == expected


def test_a_limit_cuts_the_titles_of_a_history_too() -> None:
    made = writer(text=True, limit=2)
    ids = made.prompts(examples(["titles_to_sid"] * 3))
    assert made.tokenizer.decode(ids[0][1:]) == "history: Grey boots; White gloves next:"


def test_titles_end_with_the_end_token() -> None:
    made = writer(text=True)
    rows = made.titles(np.array([3, 1]))
    assert [made.tokenizer.decode(row[:-1]) for row in rows] == [TITLES[3], TITLES[1]]
    assert all(row[-1] == made.tokenizer.eos_token_id for row in rows)
    assert all(row[0] != made.tokenizer.bos_token_id for row in rows)


def test_text_for_a_tokenizer_of_sids_alone_is_the_users_error() -> None:
    made = writer("instruct")
    with pytest.raises(UserError, match="prompts hold text"):
        made.prompts(examples())
    with pytest.raises(UserError, match="text_vocab_size"):
        made.titles(np.array([0]))


def test_no_prompts_are_no_rows() -> None:
    made = writer("instruct", text=True)
    assert len(made.prompts(examples().select(np.zeros(0, np.int64)))) == 0


def test_responses_close_with_the_end_token_where_the_template_says_so() -> None:
    plain, instruct = writer(), writer("instruct", text=True)
    assert as_lists(plain.responses()) == as_lists(plain.sid_ids)
    end = instruct.tokenizer.eos_token_id
    assert as_lists(instruct.responses()) == [[*row, end] for row in as_lists(instruct.sid_ids)]
    assert [len(row) for row in plain.responses()] == [3, 2, 3, 2, 2, 2]


def test_a_tokenizer_without_bos_gets_none() -> None:
    made = tokenizer(True)
    made.bos_token = None
    plain = PromptWriter.make(made, INDEX, CATALOG, "plain", 3)
    assert as_lists(plain.prompts(examples()))[1] == plain.sid_ids[5].tolist()
    assert as_lists(plain.encode([item_mark(5)]))[0] == plain.sid_ids[5].tolist()
    assert len(plain.titles(np.array([0]))[0]) == len(made("Red hat")["input_ids"]) + 1


def test_joining_rows_by_hand() -> None:
    left, right = Ragged.from_lists([[1], [], [2, 3]]), Ragged.from_lists([[4, 5], [6], []])
    assert as_lists(concatenate(left, right)) == [[1, 4, 5], [6], [2, 3]]
    assert as_lists(append(left, 9)) == [[1, 9], [9], [2, 3, 9]]
    assert as_lists(prepend(left, [7, 8])) == [[7, 8, 1], [7, 8], [7, 8, 2, 3]]


@pytest.mark.parametrize("title", ["a <|end|> b", "<a_1> or <|item:3|>", "<d_0>"])
def test_a_title_that_looks_like_a_mark_stays_text(title: str) -> None:
    catalog = replace(CATALOG, titles=[title, *TITLES[1:]])
    made = PromptWriter.make(tokenizer(text=True), INDEX, catalog, "plain", 3)
    ids = made.titles(np.array([0]))[0].tolist()
    marks = {made.tokenizer.convert_tokens_to_ids(token) for token in INDEX.vocabulary()}
    assert ids[-1] == made.tokenizer.eos_token_id
    assert not (set(ids[:-1]) & (marks | set(made.tokenizer.all_special_ids)))
