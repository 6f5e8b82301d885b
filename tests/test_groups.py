"""Packing of active rows, and its cuts into mini- and micro-batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from groups_of import OPS, groups_of
from hypothesis import given, settings
from hypothesis import strategies as st

from recrl.groups.packed import PackedGroups, distinct_tokens, pack_active
from recrl.groups.prompts import PromptBatch, Targets
from recrl.groups.rollout import RolloutGroups, Signal, slate_entropy
from recrl.rollout.base import join_groups, join_prompts


def signal_of(groups: RolloutGroups, active: list[list[bool]]) -> Signal:
    chosen = torch.tensor(active)
    advantage = torch.arange(chosen.numel(), dtype=torch.float32).view(chosen.shape)
    return Signal(groups, advantage, chosen, torch.zeros(len(chosen), dtype=torch.bool))


def small() -> tuple[RolloutGroups, PackedGroups]:
    groups = groups_of([[0, 1, 2], [3, 4, 5], [6, 7, 8]], prompt_lengths=[5, 2, 3])
    return groups, pack_active(signal_of(groups, [[True, False, True], [False] * 3, [False, True, False]]), OPS)


@st.composite
def packings(draw: st.DrawFn) -> tuple[RolloutGroups, list[list[bool]], PackedGroups]:
    """Random groups of slates, which of their rows are active (at least one), and the packed rows."""
    batch, group = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(1, 9), min_size=batch, max_size=batch))
    flags = draw(st.lists(st.booleans(), min_size=batch * group, max_size=batch * group).filter(any))
    active = [flags[row * group : (row + 1) * group] for row in range(batch)]
    size = draw(st.integers(1, 3))
    items = torch.arange(batch * group * size).view(batch, group, size)
    items[..., draw(st.integers(1, size)) :] = -1
    targets, history = torch.arange(batch * 2).view(batch, 2), torch.arange(batch * 3).view(batch, 3)
    groups = groups_of(items.tolist(), targets=targets.tolist(), history=history.tolist(), prompt_lengths=lengths)
    groups = replace(groups, prompts=replace(groups.prompts, start=torch.arange(batch) + 7))
    entropy = torch.rand(batch, group)
    return groups, active, pack_active(signal_of(groups, active), OPS, entropy)


def row_keys(packed: PackedGroups) -> list[Any]:
    """What tells a row from every other: its prompt's tokens, its own, and all that goes with them."""
    return [
        (
            tuple(packed.prompts.ids[prompt, : packed.prompts.length[prompt]].tolist()),
            int(packed.prompts.start[prompt]),
            *(
                tuple(table[prompt].flatten().tolist())
                for table in (packed.prompts.targets.items, packed.prompts.targets.codes, packed.prompts.history)
            ),
            *(tuple(table[row].tolist()) for table in (packed.tokens, packed.mask, packed.nodes)),
            *(float(table[row]) for table in (packed.advantage, packed.slate_size, packed.slate_entropy)),
            *(None if table is None else tuple(table[row].tolist()) for table in (packed.logp_old, packed.logp_ref)),
        )
        for row, prompt in enumerate(packed.prompt_of.tolist())
    ]


def test_only_active_rows_and_their_prompts_remain() -> None:
    groups, packed = small()
    assert packed.prompts.length.tolist() == [5, 3]
    assert torch.equal(packed.prompts.ids[0], groups.prompts.ids[0])
    assert packed.prompt_of.tolist() == [0, 0, 1]
    assert packed.slot.tolist() == [0, 1, 0]
    assert torch.equal(packed.tokens, groups.tokens[[0, 0, 2], [0, 2, 1]])
    assert torch.equal(packed.nodes, groups.nodes[[0, 0, 2], [0, 2, 1]])
    assert packed.advantage.tolist() == [0, 2, 7]
    assert packed.width == 2
    assert packed.effective_tokens == 5 + 3 + (2 + 2 + 1)


def test_pairs_by_hand() -> None:
    """Prompts of 5 and 3: 15 + 6. Two rows that feed 2 tokens each to the first: 26. One token to the second: 4."""
    assert small()[1].pairs == 21 + 26 + 4


def test_responses_that_begin_alike_share_their_first_tokens() -> None:
    """Rows of two prompts, the last token of each not fed: a b, a c, a b, c; then a b."""
    tokens = torch.tensor([[1, 2, 9], [1, 3, 9], [1, 2, 8], [3, 9, 0], [1, 2, 9]])
    mask = tokens > 0
    length = mask.sum(1)
    fed = torch.arange(2) < (length - 1).unsqueeze(1)
    found = distinct_tokens(tokens[:, :-1], fed, torch.tensor([0, 0, 0, 0, 1]))
    assert found.number[fed].tolist() == [0, 1, 0, 2, 0, 1, 3, 4, 5]
    assert found.first.tolist() == [[True, True], [False, True], [False, False], [True, False], [True, True]]


@settings(deadline=None)
@given(packings())
def test_distinct_tokens_are_counted_as_sets_count_them(
    drawn: tuple[RolloutGroups, list[list[bool]], PackedGroups],
) -> None:
    packed = drawn[2]
    begun: dict[tuple[int, ...], int] = {}
    numbers = []
    for row, (prompt, count) in enumerate(zip(packed.prompt_of.tolist(), packed.sizes.rows.row, strict=True)):
        tokens = packed.tokens[row].tolist()
        numbers += [begun.setdefault((prompt, *tokens[:end]), len(begun)) for end in range(1, count + 1)]
    assert packed.distinct.number[packed.fed].tolist() == numbers
    assert packed.sizes.rows.own == [sum(key[0] == prompt for key in begun) for prompt in range(len(packed.prompts))]
    seen = sum(packed.sizes.rows.prompt[key[0]] + len(key) - 1 for key in begun)
    assert packed.pairs == seen + sum(length * (length + 1) // 2 for length in packed.sizes.rows.prompt)
    parts = packed.micro_batches(1)
    assert [own for part in parts for own in part.sizes.rows.own] == packed.sizes.rows.own
    for part in parts:
        alone = distinct_tokens(part.tokens[:, :-1], part.fed, part.prompt_of)
        assert torch.equal(part.distinct.first, alone.first)
        assert torch.equal(part.distinct.number[part.fed], alone.number[part.fed])


def test_prompts_are_cut_to_the_longest_that_remains() -> None:
    _, packed = small()
    part = packed.select(torch.tensor([1]))
    assert part.prompts.ids.shape == (1, 3)
    assert part.prompt_of.tolist() == [0]
    assert len(part) == 1


def test_nothing_active_packs_to_nothing() -> None:
    groups = groups_of([[0, 1], [2, 3]])
    packed = pack_active(signal_of(groups, [[False] * 2] * 2), OPS)
    assert len(packed) == 0
    assert packed.width == 0
    assert packed.effective_tokens == 0
    assert packed.micro_batches(100) == []


@settings(deadline=None)
@given(packings())
def test_every_active_row_is_packed_once_with_its_own_prompt(
    drawn: tuple[RolloutGroups, list[list[bool]], PackedGroups],
) -> None:
    groups, active, packed = drawn
    where = torch.tensor(active).nonzero()
    assert len(packed) == len(where)
    for row, (prompt, response) in enumerate(where.tolist()):
        place = int(packed.prompt_of[row])
        length = int(groups.prompts.length[prompt])
        assert int(packed.prompts.length[place]) == length
        assert torch.equal(packed.prompts.ids[place, :length], groups.prompts.ids[prompt, :length])
        assert torch.equal(packed.tokens[row], groups.tokens[prompt, response])
    pairs = list(zip(packed.prompt_of.tolist(), packed.slot.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert packed.width == max(sum(row) for row in active)


@settings(deadline=None)
@given(packings(), st.integers(1, 120))
def test_micro_batches_hold_every_row_exactly_once_in_order(
    drawn: tuple[RolloutGroups, list[list[bool]], PackedGroups], budget: int
) -> None:
    shape = drawn[2].tokens.shape
    packed = drawn[2].with_logps(torch.rand(shape), torch.rand(shape))
    parts = packed.micro_batches(budget)
    assert [key for part in parts for key in row_keys(part)] == row_keys(packed)
    assert sum(part.effective_tokens for part in parts) == packed.effective_tokens
    for part in parts:
        assert part.effective_tokens <= budget or len(part.prompts) == 1


@settings(deadline=None)
@given(packings(), st.data())
def test_select_keeps_the_rows_of_the_named_prompts(
    drawn: tuple[RolloutGroups, list[list[bool]], PackedGroups], data: st.DataObject
) -> None:
    packed = drawn[2].with_logps(None, torch.rand(drawn[2].tokens.shape))
    every = list(range(len(packed.prompts)))
    chosen = sorted(data.draw(st.sets(st.sampled_from(every), min_size=1)))
    left = [number for number in every if number not in chosen]
    parts = [packed.select(torch.tensor(names)) for names in (chosen, left) if names]
    keys = row_keys(packed)
    expected = [keys[row] for row, prompt in enumerate(packed.prompt_of.tolist()) if prompt in chosen]
    assert row_keys(parts[0]) == expected
    assert sum(map(len, parts)) == len(packed)


def test_hits_are_existing_responses_that_name_a_target() -> None:
    groups = groups_of(
        [[3, 1, -1], [2, 5, 3], [2, 2, 0]],
        [[1, -1], [3, 2], [-1, -1]],
        exists=[[True, True, False], [True, True, False], [True, True, True]],
    )
    assert groups.hits.tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def prompts_of(lengths: list[int], targets: list[list[int]], history: list[list[int]], first: int) -> PromptBatch:
    """Prompts whose tokens count up from ``first``; item ``i`` has the codes ``(i, i + 1)``."""
    length = torch.tensor(lengths)
    ids = first + torch.arange(len(lengths) * max(lengths)).view(len(lengths), -1)
    ids = torch.where(torch.arange(max(lengths)) < length[:, None], ids, 0)
    asked = torch.tensor(targets)
    codes = torch.where((asked >= 0).unsqueeze(-1), torch.stack([asked, asked + 1], -1), -1)
    start = torch.arange(len(lengths)) + first
    return PromptBatch(ids, length, Targets(asked, codes), torch.tensor(history), start)


def test_ragged_prompts_join_and_come_apart_as_they_were() -> None:
    parts = [
        prompts_of([2, 3], [[1], [2]], [[5, 6, 7], [8, -1, -1]], 10),
        prompts_of([5], [[3, 4, -1]], [[9]], 20),
        prompts_of([1, 4], [[-1, -1], [6, 7]], [[1, 2], [3, -1]], 30),
    ]
    both = join_prompts(parts)
    assert both.ids.shape == (5, 5)
    assert both.length.tolist() == [2, 3, 5, 1, 4]
    assert both.start.tolist() == [10, 11, 20, 30, 31]
    assert both.targets.items.tolist() == [[1, -1, -1], [2, -1, -1], [3, 4, -1], [-1, -1, -1], [6, 7, -1]]
    assert both.targets.codes[2].tolist() == [[3, 4], [4, 5], [-1, -1]]
    assert both.history.tolist() == [[5, 6, 7], [8, -1, -1], [9, -1, -1], [1, 2, -1], [3, -1, -1]]
    rows = 0
    for part in parts:
        again = both.select(torch.arange(rows, rows + len(part)))
        assert torch.equal(again.ids, part.ids)
        wide = part.targets.items.shape[1]
        assert torch.equal(again.targets.items[:, :wide], part.targets.items)
        assert torch.equal(again.targets.codes[:, :wide], part.targets.codes)
        assert (again.targets.codes[:, wide:] == -1).all()
        rows += len(part)


def ragged_parts() -> Sequence[RolloutGroups]:
    """Groups of two, three and one responses; the second's have one token more, and differ in targets and history."""
    first = groups_of([[1, 2], [3, 4]], [[1], [9]], prompt_lengths=[2, 4])
    second = groups_of([[5, 6, -1]], [[7, 5]], prompt_lengths=[7], history=[[1, 2, 3]])
    longer = [torch.cat([table, table[..., -1:]], -1) for table in (second.tokens, second.mask, second.nodes)]
    logp = -torch.rand(1, 3, 4)
    second = replace(second, tokens=longer[0], mask=longer[1], nodes=longer[2], logp=logp)
    third = groups_of([[8], [9]], [[8], [7]], prompt_lengths=[1, 3])
    return first, second, third


def test_groups_of_different_sizes_join() -> None:
    parts = ragged_parts()
    both = join_groups(list(parts))
    assert both.prompts.ids.shape == (5, 7)
    assert both.prompts.length.tolist() == [2, 4, 7, 1, 3]
    assert both.items[..., 0].tolist() == [[1, 2, -1], [3, 4, -1], [5, 6, -1], [8, -1, -1], [9, -1, -1]]
    assert both.exists.sum(1).tolist() == [2, 2, 2, 1, 1]
    assert both.hard.tolist() == [False, True, False, False, True]
    assert both.hits.any(1).tolist() == [True, False, True, True, False]
    assert not both.mask[~both.exists].any()
    assert not both.mask[:2, :, 3].any()
    assert (both.codes[both.items < 0] == -1).all()
    assert torch.equal(both.logp[2], parts[1].logp[0])
    assert (both.logp[[0, 1, 3, 4]] == 0).all()


def test_joined_groups_come_apart_as_they_were() -> None:
    parts = ragged_parts()
    both = join_groups(list(parts))
    for number, (part, rows) in enumerate(zip(parts, ([0, 1], [2], [3, 4]), strict=True)):
        again = both.select(torch.tensor(rows))
        for name in ("tokens", "mask", "nodes", "logp", "items", "codes", "exists"):
            table, whole = getattr(part, name), getattr(again, name)
            cut = whole[tuple(slice(0, size) for size in table.shape)]
            assert torch.equal(cut, table), (number, name)
        assert torch.equal(again.hard, part.hard)
        assert torch.equal(again.prompts.ids, part.prompts.ids)
        assert torch.equal(again.hits[:, : part.hits.shape[1]], part.hits)


def test_groups_are_taken_in_the_order_that_is_asked_for_even_twice() -> None:
    taken = join_groups(list(ragged_parts())).select(torch.tensor([2, 0, 2]))
    assert taken.items[..., 0].tolist() == [[5, 6, -1], [1, 2, -1], [5, 6, -1]]
    assert taken.prompts.targets.items.tolist() == [[7, 5], [1, -1], [7, 5]]
    assert taken.prompts.history[0].tolist() == [1, 2, 3]
    assert taken.hard.tolist() == [False, False, False]
    one = ragged_parts()[0]
    assert join_groups([one]) is one


def test_responses_are_taken_in_the_order_that_is_asked_for() -> None:
    groups = groups_of([[1, 2, 3], [4, 5, 6]], [[2], [7]])
    taken = groups.responses(torch.tensor([[2, 1], [0, 0]]))
    assert taken.items[..., 0].tolist() == [[3, 2], [4, 4]]
    assert taken.hits.tolist() == [[False, True], [False, False]]
    assert taken.hard.tolist() == groups.hard.tolist()


def test_the_entropy_of_a_slate_is_over_its_valid_items() -> None:
    category = torch.tensor([0, 0, 1, 2])
    slates = torch.tensor([[0, 1, 0, 2], [0, 2, 3, -1], [1, -1, -1, -1], [-1, -1, -1, -1]])
    entropy = slate_entropy(slates, category)
    three_one = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert entropy[:3].tolist() == pytest.approx([three_one, math.log(3), 0.0])
    assert entropy[3].isnan()


def test_the_worked_entropies(worked: dict[str, Any]) -> None:
    expected = worked["A3_H"]
    category = torch.tensor([0, 1, 2, 0])  # items 0 and 3 are A, 1 is B, 2 is C
    slates = torch.tensor([[0, 3, 0, 3, 3, 1], [0, 3, 1, 1, 2, 2], [0, 1, 2, -1, -1, -1]])
    entropy = slate_entropy(slates, category).tolist()
    assert entropy == pytest.approx([expected["AAAAAB"], expected["AABBCC"], math.log(3)], abs=1e-6)
    other = torch.arange(6)
    assert float(slate_entropy(other, other)) == pytest.approx(expected["max_L6"], abs=1e-6)


def test_packed_rows_know_how_many_items_they_name_and_how_spread_they_are() -> None:
    groups = groups_of(
        [[[1, 2], [3, -1], [-1, -1]], [[4, 5], [6, 7], [8, 9]], [[1, 1], [2, -1], [3, 4]]],
        exists=[[True] * 3] * 3,
    )
    entropy = torch.tensor([[0.5, 0.0, float("nan")], [0.1, 0.2, 0.3], [0.6, 0.7, 0.8]])
    active = [[False, True, True], [False] * 3, [True, False, True]]
    packed = pack_active(signal_of(groups, active), OPS, entropy)
    assert packed.slate_size.tolist() == [1, 0, 2, 2]
    torch.testing.assert_close(
        packed.slate_entropy, torch.tensor([0.0, float("nan"), 0.6, 0.8]), equal_nan=True, rtol=0, atol=0
    )
    last = packed.select(torch.tensor([1]))
    assert last.slate_size.tolist() == [2, 2]
    assert last.slate_entropy.tolist() == pytest.approx([0.6, 0.8])
    assert last.prompt_of.tolist() == [0, 0]
    assert pack_active(signal_of(groups, active), OPS).slate_entropy.isnan().all()
