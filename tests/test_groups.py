"""Packing of active rows, and its cuts into mini- and micro-batches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from groups_of import OPS, groups_of
from hypothesis import given
from hypothesis import strategies as st

from recrl.groups import PackedGroups, RolloutGroups, Signal, pack_active, slate_entropy
from recrl.rollout.base import join_groups


def signal_of(groups: RolloutGroups, active: list[list[bool]]) -> Signal:
    chosen = torch.tensor(active)
    advantage = torch.arange(chosen.numel(), dtype=torch.float32).view(chosen.shape)
    return Signal(groups, advantage, chosen, torch.zeros(len(chosen), dtype=torch.bool))


def small() -> tuple[RolloutGroups, PackedGroups]:
    groups = groups_of([[0, 1, 2], [3, 4, 5], [6, 7, 8]], prompt_lengths=[5, 2, 3])
    return groups, pack_active(signal_of(groups, [[True, False, True], [False] * 3, [False, True, False]]), OPS)


@st.composite
def packings(draw: st.DrawFn) -> tuple[RolloutGroups, list[list[bool]], PackedGroups]:
    """Random groups, which of their rows are active (at least one), and the packed rows."""
    batch, group = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(1, 9), min_size=batch, max_size=batch))
    flags = draw(st.lists(st.booleans(), min_size=batch * group, max_size=batch * group).filter(any))
    active = [flags[row * group : (row + 1) * group] for row in range(batch)]
    items = torch.arange(batch * group).view(batch, group).tolist()
    groups = groups_of(items, prompt_lengths=lengths)
    return groups, active, pack_active(signal_of(groups, active), OPS)


def row_keys(packed: PackedGroups) -> list[Any]:
    """What tells a row from every other: its prompt's tokens, its own, and all that goes with them."""
    return [
        (
            tuple(packed.prompts.ids[prompt, : packed.prompts.length[prompt]].tolist()),
            *(tuple(table[row].tolist()) for table in (packed.tokens, packed.mask, packed.nodes)),
            float(packed.advantage[row]),
            None if packed.logp_old is None else tuple(packed.logp_old[row].tolist()),
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


@given(packings(), st.integers(1, 120))
def test_micro_batches_hold_every_row_exactly_once_in_order(
    drawn: tuple[RolloutGroups, list[list[bool]], PackedGroups], budget: int
) -> None:
    packed = drawn[2].with_logps(torch.rand(drawn[2].tokens.shape), None)
    parts = packed.micro_batches(budget)
    assert [key for part in parts for key in row_keys(part)] == row_keys(packed)
    assert sum(part.effective_tokens for part in parts) == packed.effective_tokens
    for part in parts:
        assert part.effective_tokens <= budget or len(part.prompts) == 1


@given(packings(), st.data())
def test_select_keeps_the_rows_of_the_named_prompts(
    drawn: tuple[RolloutGroups, list[list[bool]], PackedGroups], data: st.DataObject
) -> None:
    packed = drawn[2].with_logps(torch.rand(drawn[2].tokens.shape), None)
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


def test_groups_of_different_sizes_join_and_come_apart_again() -> None:
    first = groups_of([[1, 2], [3, 4]], [[1], [9]], prompt_lengths=[2, 4])
    second = groups_of([[5, 6, -1]], [[5]], prompt_lengths=[7])
    both = join_groups([first, second])
    assert both.prompts.ids.shape == (3, 7)
    assert both.prompts.length.tolist() == [2, 4, 7]
    assert both.items[..., 0].tolist() == [[1, 2, -1], [3, 4, -1], [5, 6, -1]]
    assert both.exists.tolist() == [[True, True, False], [True, True, False], [True, True, False]]
    assert both.hard.tolist() == [False, True, False]
    assert both.hits.tolist() == [[True, False, False], [False] * 3, [True, False, False]]
    apart = both.select(torch.tensor([2, 0]))
    assert apart.prompts.targets.items.tolist() == [[5], [1]]
    assert apart.prompts.ids[1, :2].tolist() == first.prompts.ids[0, :2].tolist()
    assert apart.tokens[0].tolist() == second.tokens[0].tolist()


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


def test_packed_rows_know_how_many_items_they_name() -> None:
    groups = groups_of([[1, 2, -1]], exists=[[True] * 3])
    entropy = torch.tensor([[0.5, 1.0, float("nan")]])
    packed = pack_active(signal_of(groups, [[False, True, True]]), OPS, entropy)
    assert packed.slate_size.tolist() == [1, 0]
    assert packed.slate_entropy[0] == 1.0
    assert packed.select(torch.tensor([0])).slate_size.tolist() == [1, 0]
    assert pack_active(signal_of(groups, [[True] * 3]), OPS).slate_entropy.isnan().all()
