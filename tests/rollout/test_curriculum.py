"""The SID-prefix curriculum: how much is given, to whom, and what the second rollout is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from worlds import tiny_codes, tiny_policy, tiny_prompts

from recrl.groups import PromptBatch, Targets
from recrl.rollout.base import RolloutContext, RolloutOptions
from recrl.rollout.beam import rollout as beam_rollout
from recrl.rollout.curriculum import CurriculumOptions, guide_length, rollout

ITEMS = 40


def asked(prompts: PromptBatch, items: list[int]) -> PromptBatch:
    target = torch.tensor(items).unsqueeze(1)
    return replace(prompts, targets=Targets(target, tiny_codes(ITEMS)[target]))


def test_the_worked_lengths(shared: Path) -> None:
    worked = json.loads((shared / "reference" / "worked.json").read_text())["C_guide"]
    for row in worked:
        assert guide_length(row["t"], 9, 3, "none") == row["literal"]
        assert guide_length(row["t"], 9, 3, "levels_minus_1") == row["capped"]


def test_prompts_that_beams_miss_go_on_behind_the_given_tokens() -> None:
    policy = tiny_policy(items=ITEMS)
    prompts = tiny_prompts(policy, [4, 6, 3], items=ITEMS)
    context = RolloutContext(policy, policy.trie, tiny_codes(ITEMS), seed=0, step=0, steps=9)
    plain = beam_rollout(prompts, RolloutOptions(group_size=4), context)
    found = {int(item) for item in plain.items[1, :, 0]}
    missed = [next(i for i in range(ITEMS) if i not in set(plain.items[row, :, 0].tolist())) for row in (0, 2)]
    prompts = asked(prompts, [missed[0], min(found), missed[1]])
    groups = rollout(prompts, CurriculumOptions(group_size=4), context)
    assert groups.hard.tolist() == [True, False, True]
    assert torch.equal(groups.items[1], plain.items[1])
    assert groups.prompts.length.tolist() == [6, 6, 5]
    codes = tiny_codes(ITEMS)
    for row, target in ((0, missed[0]), (2, missed[1])):
        path, _ = policy.trie.paths(torch.tensor(target))
        length = int(prompts.length[row])
        given = groups.prompts.ids[row, length : length + 2]
        assert torch.equal(given, path[:2])
        named = groups.items[row, :, 0][groups.exists[row]]
        assert (codes[named, :2] == codes[target, :2]).all()
        assert target in named.tolist()
        assert groups.hits[row].any()
        # A response is what is left behind the given tokens.
        for response in groups.exists[row].nonzero().flatten().tolist():
            rest = policy.trie.paths(groups.items[row, response, 0])[0]
            tokens = groups.tokens[row, response][groups.mask[row, response]]
            assert tokens.tolist() == rest[rest >= 0][2:].tolist()


def test_later_less_is_given_and_at_the_end_nothing() -> None:
    policy = tiny_policy(items=ITEMS)
    prompts = asked(tiny_prompts(policy, [4], items=ITEMS), [0])
    lengths = []
    for step in (0, 4, 8):
        context = RolloutContext(policy, policy.trie, tiny_codes(ITEMS), seed=0, step=step, steps=9)
        groups = rollout(prompts, CurriculumOptions(group_size=2), context)
        lengths.append(int(groups.prompts.length[0]) - 4 if groups.hard[0] else None)
    assert lengths == [2, 1, 0]


def test_the_whole_answer_leaves_one_response_without_a_token_of_its_own() -> None:
    policy = tiny_policy(items=ITEMS)
    prompts = asked(tiny_prompts(policy, [4], items=ITEMS), [0])
    unique = int((policy.trie.paths(torch.tensor(0))[0] >= 0).sum()) == 3
    context = RolloutContext(policy, policy.trie, tiny_codes(ITEMS), seed=0, step=0, steps=9)
    groups = rollout(prompts, CurriculumOptions(group_size=2, guide_cap="none"), context)
    if unique:
        assert groups.items[0, :, 0][groups.exists[0]].tolist() == [0]
        assert not groups.mask.any()
    assert groups.hits.any()


def test_prompts_that_ask_for_a_title_or_for_nothing_are_not_helped() -> None:
    policy = tiny_policy(items=ITEMS)
    prompts = tiny_prompts(policy, [4], items=ITEMS)
    prompts = replace(prompts, targets=Targets(torch.tensor([[-1]]), torch.full((1, 1, 3), -1)))
    context = RolloutContext(policy, policy.trie, tiny_codes(ITEMS), seed=0, step=0, steps=9)
    groups = rollout(prompts, CurriculumOptions(group_size=4), context)
    assert groups.hard.all()
    assert groups.prompts.length.tolist() == [4]


def test_slates_have_no_curriculum() -> None:
    with pytest.raises(ValidationError):
        CurriculumOptions(slate_size=2)
