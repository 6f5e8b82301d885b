"""Training rows: windows, trie nodes, masks, task weights, and one pass against separate rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import run_config

from recrl.data.dataset import Catalog, Dataset, Examples, Sequences
from recrl.data.examples import item_examples, next_examples, windows
from recrl.data.log import InteractionLog
from recrl.data.ragged import Ragged
from recrl.data.splits import leave_one_out
from recrl.errors import UserError
from recrl.models.presets import preset_tokenizer
from recrl.prompts.writer import PromptWriter
from recrl.sids.codes import with_suffixes
from recrl.sids.tokens import add_sid_tokens
from recrl.sids.trie import Trie, build_trie
from recrl.store.run_folder import StageFolder
from recrl.training.rows import RowMaker, Rows, nodes_of
from recrl.training.sft import Sft
from recrl.training_sections import SftSection

ITEMS = 8
CODES = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 1], [2, 0], [2, 0], [2, 0]], np.int32)
TRAIN = [[0, 1, 2, 3, 4, 5, 6, 7, 0], [5, 6], [7, 3, 1]]


def as_lists(rows: Ragged) -> list[list[int]]:
    return [row.tolist() for row in rows]


def sequences(rows: list[list[int]], first: list[int] | None = None) -> Sequences:
    starts = np.array(first or [1] * len(rows), np.int32)
    return Sequences(np.arange(len(rows), dtype=np.int32), Ragged.from_lists(rows), starts)


def dataset(train: Sequences, train_examples: Examples | None = None) -> Dataset:
    titles = [f"item number {item}" for item in range(ITEMS)]
    catalog = Catalog([str(item) for item in range(ITEMS)], titles, [""] * ITEMS, [""] * ITEMS, [""] * ITEMS)
    empty = Examples.empty()
    return Dataset(catalog, [], train, empty if train_examples is None else train_examples, empty, empty, {})


def maker(
    data: Dataset | None = None, template: str = "plain", limit: int = 4, **options: object
) -> tuple[RowMaker, Trie]:
    data = data or dataset(sequences(TRAIN))
    index = with_suffixes(CODES, (3, 2))
    tokenizer = preset_tokenizer(data.catalog.titles, 300)
    add_sid_tokens(tokenizer, index)
    writer = PromptWriter.make(tokenizer, index, data.catalog, template, limit)
    trie = build_trie(writer.responses())
    return RowMaker.make(data, writer, trie, SftSection.model_validate(options), seed=0), trie


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(LENGTHS, st.integers(1, 12), st.data())
def test_windows_score_every_target_exactly_once(lengths: list[int], limit: int, data: st.DataObject) -> None:
    first = [data.draw(st.integers(1, max(1, length - 1))) for length in lengths]
    offsets = np.cumsum([0, *lengths])
    rows = [list(range(offsets[number], offsets[number + 1])) for number in range(len(lengths))]  # entries are places
    cut = windows(sequences(rows, first), limit)
    scored: list[int] = []
    for number in range(len(cut)):
        row, start = cut.items[number].tolist(), int(cut.first_target[number])
        source = rows[int(cut.users[number])]
        assert 2 <= len(row) <= limit + 1
        assert row == source[source.index(row[0]) : source.index(row[0]) + len(row)]
        assert 1 <= start < len(row)
        scored += row[start:]
        assert start >= min((limit + 1) - limit // 2 - (limit < 2), source.index(row[start]))  # enough context
    expected = [place for row, begin in zip(rows, first, strict=True) for place in row[begin:]]
    assert sorted(scored) == expected


def test_windows_by_hand() -> None:
    cut = windows(sequences([[0, 1, 2, 3, 4, 5, 6, 7], [9, 8], [7]]), 4)
    assert as_lists(cut.items) == [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [3, 4, 5, 6, 7], [9, 8]]
    assert cut.first_target.tolist() == [1, 3, 4, 1]
    assert cut.users.tolist() == [0, 0, 0, 1]


def test_a_sliding_sample_stays_one_row_with_one_target() -> None:
    cut = windows(sequences([[0, 1, 2, 3, 4, 5, 6, 7]], [7]), 4)
    assert as_lists(cut.items) == [[3, 4, 5, 6, 7]]
    assert cut.first_target.tolist() == [4]


@pytest.mark.parametrize("template", ["plain", "instruct"])
def test_a_token_is_chosen_at_the_node_that_a_walk_reaches(template: str) -> None:
    made, trie = maker(template=template)
    nodes = nodes_of(trie, made.responses)
    for item in range(ITEMS):
        tokens = torch.from_numpy(made.responses[item]).long()
        node = torch.tensor(0)
        for place, token in enumerate(tokens):
            assert int(nodes[item][place]) == int(node)
            node = trie.step(node, token)
        assert int(node) == int(trie.leaf[0, item])


def test_a_plain_row_is_bos_and_sids_scored_from_the_second_item_on() -> None:
    made, _ = maker()
    rows = made.epoch(0)
    assert len(rows) == 5  # the nine items make three windows
    ids, nodes, items, scored, lengths = rows.tensors()
    bos, sids = made.writer.tokenizer.bos_token_id, as_lists(made.writer.sid_ids)
    assert lengths.tolist() == rows.ids.lengths.tolist()
    short = int(rows.ids.lengths.argmin())
    place = slice(*rows.ids.offsets[short : short + 2].tolist())
    assert ids[place].tolist() == [bos, *sids[5], *sids[6]]
    assert scored[place].tolist() == [False] * (1 + len(sids[5])) + [True] * len(sids[6])
    assert nodes[place].tolist() == [-1, *made.item_nodes[5].tolist(), *made.item_nodes[6].tolist()]
    assert items[place].tolist() == [-1] + [5] * len(sids[5]) + [6] * len(sids[6])


def test_an_instruct_row_scores_its_response_alone() -> None:
    made, _ = maker(template="instruct")
    rows = made.epoch(0)
    assert len(rows) == 3  # one drawn target a sequence
    for number, first in enumerate(rows.first_scored.tolist()):
        row = rows.ids[number].tolist()
        assert row[first:] in as_lists(made.responses)
        assert row[-1] == made.writer.tokenizer.eos_token_id
        assert (rows.nodes[number][:first] == -1).all()
        assert (rows.nodes[number][first:] >= 0).all()


def test_title_responses_are_text_without_nodes() -> None:
    made, _ = maker(tasks={"sid_to_title": 1.0})
    rows = made.epoch(0)
    assert len(rows) == ITEMS
    assert (rows.nodes.values == -1).all()
    response = rows.ids[3][rows.first_scored[3] :]
    assert made.writer.tokenizer.decode(response[:-1]) == "item number 3"


def test_weights_say_how_often_an_epoch_shows_a_task() -> None:
    def rows(**tasks: float) -> int:
        return len(maker(tasks=tasks)[0].epoch(0))

    assert rows(title_to_sid=1.0) == ITEMS
    assert rows(title_to_sid=2.5) == 2 * ITEMS + ITEMS // 2
    assert rows(title_to_sid=0.25) == ITEMS // 4
    assert rows(title_to_sid=0.5, next=1.0) == ITEMS // 2 + 5
    assert rows(title_to_sid=0.0, next=1.0) == 5


def test_no_rows_at_all_are_the_users_error() -> None:
    with pytest.raises(UserError, match="gives no rows"):
        maker(tasks={"next": 0.0})[0].epoch(0)
    with pytest.raises(UserError, match="no training rows"):
        maker(dataset(sequences([])))


def test_an_epoch_is_the_same_whenever_it_is_asked_for_and_differs_from_the_next() -> None:
    options = {"tasks": {"next": 1.0, "titles_to_sid": 1.5}, "augment": {"shuffle": 1.0}, "batch_size": 3}
    first, again = maker(**options)[0], maker(**options)[0]
    first.epoch(0)
    one, other = first.epoch(1), again.epoch(1)
    assert as_lists(one.ids) == as_lists(other.ids)
    assert [batch.tolist() for batch in first.batches(1, one)] == [batch.tolist() for batch in again.batches(1, other)]
    assert as_lists(first.epoch(2).ids) != as_lists(one.ids)


def test_batches_hold_every_row_once_in_an_order_that_ignores_lengths() -> None:
    made, _ = maker(batch_size=16)
    lengths = np.random.default_rng(0).integers(2, 60, 1000)
    ids = Ragged(np.zeros(lengths.sum(), np.int32), np.concatenate([[0], np.cumsum(lengths)]))
    rows = Rows(ids, ids, ids, np.ones(1000, np.int64))
    batches = made.batches(0, rows)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert {len(batch) for batch in batches[:-1]} == {16}
    assert len(batches[-1]) == 1000 % 16
    means = np.array([lengths[batch].mean() for batch in batches[:-1]])
    assert means.std() == pytest.approx(
        lengths.std() / 4, rel=0.3
    )  # of 16 independent draws; sorted it is 4 times that


@given(LENGTHS, st.data())
def test_drawn_targets_are_allowed_and_histories_are_what_stands_before(
    lengths: list[int], data: st.DataObject
) -> None:
    first = [data.draw(st.integers(1, max(1, length - 1))) for length in lengths]
    rows = [[100 * number + place for place in range(length)] for number, length in enumerate(lengths)]
    examples = next_examples(sequences(rows, first), "next", np.random.default_rng(data.draw(st.integers(0, 99))))
    usable = [number for number, length in enumerate(lengths) if length > first[number]]
    assert examples.users.tolist() == usable
    for row, number in enumerate(usable):
        target = int(examples.targets[row][0])
        place = target - 100 * number
        assert first[number] <= place < lengths[number]
        assert examples.history[row].tolist() == rows[number][:place]


def test_item_examples_ask_for_every_item_once() -> None:
    examples = item_examples(3, "title_to_sid")
    assert as_lists(examples.targets) == [[0], [1], [2]]
    assert examples.history.lengths.tolist() == [0, 0, 0]
    assert examples.tasks == ["title_to_sid"] * 3


def test_one_of_several_targets_is_drawn_for_examples_of_the_source() -> None:
    base = Examples.plain(
        np.arange(40, dtype=np.int32), Ragged.from_lists([[0, 3]] * 40), Ragged.from_lists([[1, 4]] * 40)
    )
    given = replace(base, tasks=["recif"] * 40, prompts=["after <|item:0|> and <|item:3|>"] * 40)
    made, _ = maker(dataset(sequences([]), given), tasks={"recif": 1.0})
    rows = made.epoch(0)
    responses = {tuple(rows.ids[row][rows.first_scored[row] :].tolist()) for row in range(40)}
    assert responses == {tuple(made.responses[1].tolist()), tuple(made.responses[4].tolist())}


@pytest.mark.parametrize("template", ["plain", "instruct"])
@pytest.mark.parametrize("task", ["next", "slate", "titles_to_sid", "sids_to_title"])
def test_no_row_of_a_history_task_shows_a_held_out_item(template: str, task: str) -> None:
    """Users end with items that nobody else has; whatever augmentation does, no epoch shows them."""
    users = [[0, 1, 2, 0, 6, 7], [3, 4, 7, 6], [5, 0, 1, 2, 3, 4, 6, 7]]
    flat = np.array([item for row in users for item in row], np.int32)
    owner = np.repeat(np.arange(3, dtype=np.int32), [len(row) for row in users])
    data = dataset(sequences([]))
    split = leave_one_out(InteractionLog(owner, flat, None, None, data.catalog, ["u", "v", "w"]))
    augment = {"reverse": 0.5, "shuffle": 0.5, "shuffle_window": 4, "drop": 0.3, "crop": 0.5}
    made, _ = maker(replace(data, train=split.train), template, tasks={task: 2.0}, augment=augment)
    text = "".join(made.writer.tokenizer.decode(row) for epoch in range(15) for row in made.epoch(epoch).ids)

    def written(item: int) -> bool:
        return "".join(made.writer.index.tokens(item)) in text or data.catalog.titles[item] in text

    assert [written(item) for item in range(ITEMS)] == [True] * 6 + [False] * 2


@pytest.mark.parametrize("space", ["raw", "legal"])
def test_one_pass_over_a_history_costs_what_separate_prompts_do(world: Path, tmp_path: Path, space: str) -> None:
    """Every position of a plain row is scored as the response to the prompt before it would be."""
    config = run_config(world, tmp_path, data={"history_limit": 99}, backend={"logprob_space": space})
    sft = Sft(config, StageFolder(tmp_path / "sft"))
    sft.policy.model.eval()
    train = sft.world.dataset.train
    few = Sequences(train.users[:6], train.items.select(np.arange(6)), train.first_target[:6])
    together = replace(sft.rows, dataset=replace(sft.world.dataset, train=few)).epoch(0)
    assert len(together) == int((few.items.lengths > 1).sum())  # a single item has nothing before it

    history = [row[:place].tolist() for row in few.items for place in range(1, len(row))]
    target = [[int(row[place])] for row in few.items for place in range(1, len(row))]
    split = Examples.plain(np.zeros(len(target), np.int32), Ragged.from_lists(history), Ragged.from_lists(target))
    single = replace(sft.world.dataset, train_examples=split)
    apart = replace(sft.rows, dataset=single, options=SftSection(tasks={"recif": 1.0})).epoch(0)
    assert len(apart) == sum(len(row) - 1 for row in few.items) > 20

    def position_losses(rows: Rows) -> torch.Tensor:
        """Negated log-likelihood of every scored token, in the order of the rows."""
        losses = []
        for number in range(len(rows)):
            ids, nodes, _, scored, length = rows.select(np.array([number])).tensors()
            hidden = sft.policy.causal_hidden(ids, length)
            first = int(rows.first_scored[number])
            logp, _ = sft.policy.token_logp(hidden[first - 1 : -1], ids[first:], nodes[first:])
            assert int(scored.sum()) == len(logp)
            losses.append(-logp)
        return torch.cat(losses)

    with torch.no_grad():
        torch.testing.assert_close(position_losses(together), position_losses(apart), atol=1e-5, rtol=1e-5)
        total = sft.row_loss(*together.tensors())
        torch.testing.assert_close(total, position_losses(apart).sum(), atol=1e-3, rtol=1e-5)
        torch.testing.assert_close(sft.row_loss(*apart.tensors()), total, atol=1e-3, rtol=1e-5)
