"""ReCast's repair and boundary pair: worked numbers, ties, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from groups_of import REWARD_CONTEXT, context, groups_of, small_trie

from recrl.groups import RolloutGroups, Signal
from recrl.rewards.base import RewardOptions
from recrl.rewards.hit import hit
from recrl.signals.recast import RecastOptions, recast
from recrl.signals.repair import RepairOptions, repair_share, structural_score


def run(groups: RolloutGroups, *, state: dict[str, float] | None = None, **options: object) -> Signal:
    rewards = hit(groups, RewardOptions(), REWARD_CONTEXT).unsqueeze(-1)
    return recast(groups, rewards, torch.ones(1), RecastOptions(**options), context(state))  # type: ignore[arg-type]


def test_nearness_falls_tenfold_with_every_missing_level() -> None:
    groups = groups_of([[5, 6, 1, -1]], [[5, 14]])
    assert structural_score(groups)[0].tolist() == pytest.approx([1.0, 0.1, 0.0, 0.0])


def test_a_group_with_a_hit_keeps_its_hit_and_its_nearest_miss() -> None:
    made = run(groups_of([[1, 5, 7, 9]], [[5]]))
    assert made.advantage[0].tolist() == [0, 1, -1, 0]  # item 7 shares its first code with 5
    assert made.active[0].tolist() == [False, True, True, False]
    assert not made.repaired.any()


def test_equal_misses_go_to_the_likelier_and_then_to_the_lower_index() -> None:
    groups = groups_of([[5, 1, 2, 3]], [[5]])
    assert run(groups).active[0].tolist() == [True, True, False, False]
    groups.logp[0, 3] = 0.5
    assert run(groups).active[0].tolist() == [True, False, False, True]


def test_repair_puts_the_target_in_the_last_of_the_farthest_places(shared: Path) -> None:
    worked = json.loads((shared / "reference" / "worked.json").read_text())
    groups = groups_of([[6, 1, 7, 9]], [[5]])  # nearness .1, 0, .1, 0
    made = run(groups)
    assert made.repaired.tolist() == [True]
    assert made.groups.items[0, :, 0].tolist() == [6, 1, 7, 5]
    assert worked["D_repair_index"] == 3
    assert made.advantage[0].tolist() == [-1, 0, 0, 1]
    tokens, mask = made.groups.tokens[0, 3], made.groups.mask[0, 3]
    assert tokens[mask].tolist() == [51, 61]
    assert made.groups.hits[0].tolist() == [False, False, False, True]
    assert small_trie().walk(tokens[None], mask.sum()[None]).tolist() == [5]
    assert groups.items[0, :, 0].tolist() == [6, 1, 7, 9]  # what came in is untouched


def test_without_repair_groups_that_miss_are_left_out() -> None:
    made = run(groups_of([[6, 1], [5, 1], [5, 5]], [[5], [5], [5]]), repair="never")
    assert made.active.tolist() == [[False, False], [True, True], [False, False]]


def test_a_group_that_can_not_be_paired_is_left_out() -> None:
    holed = groups_of([[5, -1]], [[5]])
    assert not run(holed).active.any()
    nameless = groups_of([[5, -1]], [[5]], exists=[[True, True]])
    assert not run(nameless).active.any()
    assert run(nameless, require_valid_negative=False).active.all()
    unanswerable = groups_of([[1, 2]], [[-1]])
    assert not run(unanswerable).active.any()


def test_the_share_of_repaired_groups_falls_as_groups_become_trainable(shared: Path) -> None:
    worked = json.loads((shared / "reference" / "worked.json").read_text())
    options = RepairOptions(repair="linear", repair_decay=0.0)
    shares = [repair_share(options, {}, trainable)[0] for trainable in (0.1, 0.25, 0.5, 0.8)]
    assert shares == pytest.approx([0.8, 0.5, 0.0, 0.0])
    assert shares == pytest.approx([row["p"] for row in worked["D_adaptive"]])


def test_the_threshold_has_a_hysteresis() -> None:
    options = RepairOptions(repair="threshold", repair_decay=0.0)
    state: dict[str, float] = {}
    seen = []
    for trainable in (0.3, 0.52, 0.56, 0.48, 0.44):
        share, state = repair_share(options, state, trainable)
        seen.append(share)
    assert seen == [1, 1, 0, 0, 1]


def test_weights_scale_both_sides() -> None:
    made = run(groups_of([[5, 1]], [[5]]), weight=2.0, negative_weight=0.25)
    assert made.advantage[0].tolist() == [2.0, -0.5]
