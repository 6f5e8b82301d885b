"""Lists that are longer than a slate, and targets by the names that items share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from worlds import tiny_policy, tiny_prompts

from recrl.config import RunConfig, check
from recrl.data.dataset import Examples
from recrl.data.ragged import Ragged
from recrl.evaluation.metrics import ndcg_at
from recrl.ranking.lists import Lists, named_alike
from recrl.ranking.rank import Slates, rank_slates
from recrl.rollout.beam import beam_search
from recrl.sids.trie import build_trie


def config(**sections: Any) -> RunConfig:
    return check({"rl": {"rollout": {"kind": "sample", "slate_size": 6}}, "prompts": {"slate_size": 6}} | sections, "t")


@torch.no_grad()
@pytest.mark.parametrize("token_budget", [64, 32768])
def test_slates_are_read_beam_by_beam_and_place_by_place(token_budget: int) -> None:
    policy = tiny_policy(items=9, token_budget=token_budget)
    prompts = tiny_prompts(policy, [3, 7, 5], items=9)
    ids = Ragged.from_lists([row[:length].tolist() for row, length in zip(prompts.ids, prompts.length, strict=True)])
    found = rank_slates(policy, policy.trie, ids, Slates(size=3, beams=4), 7)
    alone = beam_search(policy, policy.trie, prompts, 4, 3)
    for row in range(3):
        expected: dict[int, float] = {}
        for beam in range(4):
            for item in alone.items[row, beam].tolist():
                expected.setdefault(item, float(alone.score[row, beam]))
        real = found.items[row] >= 0
        assert found.items[row][real].tolist() == [*expected][:7]
        assert found.scores[row][real] == pytest.approx([*expected.values()][:7], abs=1e-4)
        assert (found.scores[row][~real] == -np.inf).all()


@torch.no_grad()
def test_more_places_than_items_stay_empty() -> None:
    policy = tiny_policy(items=3)
    prompts = tiny_prompts(policy, [4], items=3)
    ids = Ragged.from_lists([prompts.ids[0].tolist()])
    found = rank_slates(policy, policy.trie, ids, Slates(size=2, beams=9), 12)
    assert sorted(found.items[0][:3].tolist()) == [0, 1, 2]
    assert (found.items[0][3:] == -1).all()


@pytest.mark.parametrize(
    ("sections", "about"),
    [
        ({"sft": {"tasks": {"slate": 1.0}}}, {"slate_size": 6, "slate_beams": 4}),
        ({"rl": {"tasks": {"slate": 1.0}, "rollout": {"slate_size": 6}}}, {"slate_size": 6, "slate_beams": 4}),
        ({"sft": {"tasks": {"slate": 1.0}}, "eval": {"slate_beams": 2}}, {"slate_size": 6, "slate_beams": 2}),
        ({"sft": {"tasks": {"slate": 0.0, "next": 1.0}}}, {"beam_width": 50}),
        ({"sft": {"tasks": {"slate": 1.0}}, "prompts": {"slate_size": 1}}, {"beam_width": 50}),
        ({}, {"beam_width": 50}),
    ],
    ids=["sft", "rl", "two-beams", "weight-0", "one-item", "default"],
)
def test_a_result_says_how_its_lists_were_made(sections: dict[str, Any], about: dict[str, int]) -> None:
    made = config(**sections)
    assert Lists.of(made).about(made.eval.beam_width) == about


def test_names_that_items_share_stand_for_the_first_of_them() -> None:
    trie = build_trie(Ragged.from_lists([[1, 9], [2, 9], [1, 9], [1, 2, 9], [1, 9]]))
    rows = Ragged.from_lists([[4, 1], [3]])
    examples = Examples.plain(np.zeros(2, np.int32), rows, Ragged.from_lists([[2, 4, 1], [3]]))
    named = named_alike(examples, trie)
    assert [row.tolist() for row in named.history] == [[0, 1], [3]]
    assert [row.tolist() for row in named.targets] == [[0, 0, 1], [3]]
    ranked = np.array([[0, 1, 3], [1, 0, 3]])
    assert ndcg_at(ranked, named.targets, 3).tolist() == pytest.approx([1.0, 0.5])  # a set of two, and one at place 3


def test_examples_with_a_text_of_their_own_keep_it() -> None:
    asked: list[list[str]] = []

    class Writer:
        def prompts(self, examples: Examples) -> Ragged:
            asked.append(examples.tasks)
            return Ragged.from_lists([])

    plain = Examples.plain(np.zeros(2, np.int32), Ragged.from_lists([[1], [2]]), Ragged.from_lists([[3], [4]]))
    examples = replace(plain, tasks=["next", "recif"])
    Lists(Slates(6, 4)).prompts(Writer(), examples)  # type: ignore[arg-type]
    Lists(None).prompts(Writer(), examples)  # type: ignore[arg-type]
    assert asked == [["slate", "recif"], ["next", "recif"]]
