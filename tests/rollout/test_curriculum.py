"""The SID-prefix curriculum: how much is given, to whom, and what the second rollout is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from worlds import tiny_codes, tiny_policy, tiny_prompts

from recrl.backends.torch_backend import TransformersPolicy
from recrl.groups.prompts import PromptBatch, Targets
from recrl.groups.rollout import RolloutGroups
from recrl.rollout.base import RolloutContext
from recrl.rollout.beam import BeamOptions, beam_search
from recrl.rollout.beam import rollout as beam_rollout
from recrl.rollout.curriculum import CurriculumOptions, guide_length, rollout

ITEMS = 40


def asked(prompts: PromptBatch, items: list[int]) -> PromptBatch:
    """Prompts with one target each, -1 for none."""
    target = torch.tensor(items).unsqueeze(1)
    codes = torch.where(target.unsqueeze(-1) >= 0, tiny_codes(ITEMS)[target.clamp(min=0)], -1)
    return replace(prompts, targets=Targets(target, codes))


def surroundings(policy: TransformersPolicy, step: int = 0) -> RolloutContext:
    return RolloutContext(policy, policy.trie, tiny_codes(ITEMS), seed=0, step=step, steps=9)


def missed(plain: RolloutGroups, row: int) -> int:
    """An item that no response of a prompt names."""
    return next(item for item in range(ITEMS) if item not in plain.items[row].flatten().tolist())


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> Callable[[TransformersPolicy], list[int]]:
    """Of a policy: the prompts of every prefill from here on."""

    def watched(policy: TransformersPolicy) -> list[int]:
        seen: list[int] = []
        prefill = policy.prefill

        def counted(prompts: PromptBatch) -> Any:
            seen.append(len(prompts))
            return prefill(prompts)

        monkeypatch.setattr(policy, "prefill", counted)
        return seen

    return watched


def test_the_worked_lengths(worked: dict[str, Any]) -> None:
    assert len(worked["C_guide"]) == 10
    for row in worked["C_guide"]:
        assert guide_length(row["t"], 9, 3, "none") == row["literal"]
        assert guide_length(row["t"], 9, 3, "levels_minus_1") == row["capped"]


def test_prompts_that_beams_miss_go_on_behind_the_given_tokens(asks: Callable[..., list[int]]) -> None:
    policy = tiny_policy(items=ITEMS)
    prompts = tiny_prompts(policy, [4, 6, 3], items=ITEMS)
    plain = beam_rollout(prompts, BeamOptions(group_size=4), surroundings(policy))
    targets = [missed(plain, 0), int(plain.items[1, 2, 0]), missed(plain, 2)]
    prompts = asked(prompts, targets)
    seen = asks(policy)
    groups = rollout(prompts, CurriculumOptions(group_size=4), surroundings(policy))
    assert seen == [3, 2]  # the hard ones alone roll out again
    assert groups.hard.tolist() == [True, False, True]
    assert groups.hits.any(1).all()
    assert groups.prompts.length.tolist() == [6, 6, 5]
    assert groups.prompts.targets.items[:, 0].tolist() == targets
    for name in ("items", "codes", "exists"):
        assert torch.equal(getattr(groups, name)[1], getattr(plain, name)[1])
    assert torch.equal(groups.tokens[1][groups.mask[1]], plain.tokens[1][plain.mask[1]])
    assert torch.equal(groups.logp[1][groups.mask[1]], plain.logp[1][plain.mask[1]])
    everything = beam_search(policy, policy.trie, prompts, ITEMS)
    codes = tiny_codes(ITEMS)
    for row in (0, 2):
        target, length = targets[row], int(prompts.length[row])
        path, _ = policy.trie.paths(torch.tensor(target))
        assert groups.prompts.ids[row, :length].tolist() == prompts.ids[row, :length].tolist()
        assert torch.equal(groups.prompts.ids[row, length : length + 2], path[:2])
        # The best of what begins alike, in the order that it has among all items; no response stands twice.
        order = everything.items[row, :, 0]
        below = order[(codes[order, :2] == codes[target, :2]).all(-1)].tolist()
        assert groups.items[row, :, 0][groups.exists[row]].tolist() == below[:4]
        for response in groups.exists[row].nonzero().flatten().tolist():
            rest = policy.trie.paths(groups.items[row, response, 0])[0]
            tokens = groups.tokens[row, response][groups.mask[row, response]]
            assert tokens.tolist() == rest[rest >= 0][2:].tolist()


def test_fewer_legal_responses_than_wanted_stay_fewer() -> None:
    policy = tiny_policy(items=ITEMS)
    prompts = tiny_prompts(policy, [4, 6], items=ITEMS)
    plain = beam_rollout(prompts, BeamOptions(group_size=8), surroundings(policy))
    prompts = asked(prompts, [missed(plain, 0), missed(plain, 1)])
    groups = rollout(prompts, CurriculumOptions(group_size=8), surroundings(policy))
    codes = tiny_codes(ITEMS)
    for row, target in enumerate(prompts.targets.items[:, 0]):
        alike = (codes[:, :2] == codes[target, :2]).all(-1).nonzero().flatten().tolist()
        assert 0 < len(alike) < 8
        assert groups.exists[row].tolist() == [True] * len(alike) + [False] * (8 - len(alike))
        assert sorted(groups.items[row, : len(alike), 0].tolist()) == alike


def test_later_less_is_given_and_at_the_end_nothing(asks: Callable[..., list[int]]) -> None:
    policy = tiny_policy(items=ITEMS)
    prompts = tiny_prompts(policy, [4], items=ITEMS)
    plain = beam_rollout(prompts, BeamOptions(group_size=2), surroundings(policy))
    prompts = asked(prompts, [missed(plain, 0)])
    seen = asks(policy)
    given = []
    for step in (0, 4, 8):
        groups = rollout(prompts, CurriculumOptions(group_size=2), surroundings(policy, step))
        assert groups.hard.all()
        given.append(int(groups.prompts.length[0]) - 4)
    assert given == [2, 1, 0]
    assert seen == [1, 1, 1, 1, 1]  # at the end once


@pytest.mark.parametrize("space", ["raw", "legal"])
def test_the_whole_answer_leaves_one_response_or_the_suffixes(space: str) -> None:
    policy = tiny_policy(items=ITEMS, space=space)
    prompts = tiny_prompts(policy, [4, 4], items=ITEMS)
    plain = beam_rollout(prompts, BeamOptions(group_size=6), surroundings(policy))
    rows = [policy.trie.paths(torch.tensor(item))[0] for item in range(ITEMS)]
    length = [int((row >= 0).sum()) for row in rows]
    unique = next(item for item in range(ITEMS) if length[item] == 3 and item not in plain.items[0])
    shared = next(item for item in range(ITEMS) if length[item] == 4 and item not in plain.items[1])
    siblings = [item for item in range(ITEMS) if torch.equal(rows[item][:3], rows[shared][:3])]
    assert 1 < len(siblings) < 6
    options = CurriculumOptions(group_size=6, guide_cap="none")
    groups = rollout(asked(prompts, [unique, shared]), options, surroundings(policy))
    assert groups.hard.all()
    assert groups.items[0, :, 0][groups.exists[0]].tolist() == [unique]
    assert not groups.mask[0].any()
    assert sorted(groups.items[1, :, 0][groups.exists[1]].tolist()) == siblings
    assert groups.prompts.length[1] == 4 + 3  # never the suffix
    assert (groups.mask[1].sum(-1) == groups.exists[1]).all()
    assert groups.hits.any(1).all()


def test_prompts_that_ask_for_a_title_or_for_nothing_are_not_helped(
    titled: Callable[..., TransformersPolicy], asks: Callable[..., list[int]]
) -> None:
    policy = titled(items=ITEMS)
    prompts = replace(tiny_prompts(policy, [4, 5, 3], items=ITEMS), start=torch.tensor([1, 0, 0]))
    plain = beam_rollout(prompts, BeamOptions(group_size=4), surroundings(policy))
    prompts = asked(prompts, [missed(plain, 0), -1, missed(plain, 2)])
    seen = asks(policy)
    groups = rollout(prompts, CurriculumOptions(group_size=4), surroundings(policy))
    assert seen == [3, 1]
    assert groups.hard.all()
    assert groups.prompts.length.tolist() == [4, 5, 3 + 2]
    assert torch.equal(groups.items[:2], plain.items[:2])


def test_a_prompt_that_was_helped_is_not_helped_again(asks: Callable[..., list[int]]) -> None:
    policy = tiny_policy(items=ITEMS)
    prompts = tiny_prompts(policy, [4], items=ITEMS)
    plain = beam_rollout(prompts, BeamOptions(group_size=2), surroundings(policy))
    # Behind a first token that is not the target's: no response can be right.
    target = missed(plain, 0)
    paths = policy.trie.paths(torch.arange(ITEMS))
    other = next(item for item in range(ITEMS) if paths[0][item, 0] != paths[0][target, 0])
    prompts = replace(asked(prompts, [target]), start=paths[1][other, 1:2])
    seen = asks(policy)
    assert rollout(prompts, CurriculumOptions(group_size=2), surroundings(policy)).hard.all()
    assert seen == [1]


def test_the_first_of_several_targets_is_given() -> None:
    policy = tiny_policy(items=ITEMS)
    prompts = tiny_prompts(policy, [4], items=ITEMS)
    plain = beam_rollout(prompts, BeamOptions(group_size=2), surroundings(policy))
    first, second = [item for item in range(ITEMS) if item not in plain.items][:2]
    targets = torch.tensor([[second, first, -1]])
    codes = torch.where(targets.unsqueeze(-1) >= 0, tiny_codes(ITEMS)[targets.clamp(min=0)], -1)
    prompts = replace(prompts, targets=Targets(targets, codes))
    groups = rollout(prompts, CurriculumOptions(group_size=2), surroundings(policy))
    assert groups.prompts.ids[0, 4:].tolist() == policy.trie.paths(torch.tensor(second))[0][:2].tolist()
    hit = replace(prompts, targets=Targets(torch.tensor([[first, int(plain.items[0, 1, 0]), -1]]), codes))
    assert not rollout(hit, CurriculumOptions(group_size=2), surroundings(policy)).hard.any()
