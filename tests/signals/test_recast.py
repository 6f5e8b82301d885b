"""ReCast's repair and boundary pair: worked numbers, ties, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from groups_of import REWARD_CONTEXT, THREE_LEVELS, context, groups_of, small_trie

from recrl.groups.rollout import RolloutGroups, Signal
from recrl.rewards.base import RewardOptions
from recrl.rewards.hit import hit
from recrl.signals.recast import RecastOptions, recast
from recrl.signals.repair import RepairOptions, repair_share, structural_score


def run(groups: RolloutGroups, *, state: dict[str, float] | None = None, **options: Any) -> Signal:
    rewards = hit(groups, RewardOptions(), REWARD_CONTEXT).unsqueeze(-1)
    return recast(groups, rewards, torch.ones(1), RecastOptions(**options), context(state))


def test_nearness_falls_tenfold_with_every_missing_level() -> None:
    groups = groups_of([[5, 6, 1, -1]], [[5, 14]])
    assert structural_score(groups, context())[0].tolist() == pytest.approx([1.0, 0.1, 0.0, 0.0])


@pytest.mark.parametrize(
    ("kind", "expected"), [("recast", "D_u"), ("depth_fraction", "D_alt_depth_fraction"), ("max_pair", "D_u")]
)
def test_one_item_a_response_is_as_near_as_the_worked_case(worked: dict[str, Any], kind: str, expected: str) -> None:
    groups = groups_of([[1, 2, 3, -1]], [[0]], codes=THREE_LEVELS, exists=[[True] * 4])
    assert structural_score(groups, context(), kind)[0].tolist() == pytest.approx(worked[expected])


def test_slates_are_as_near_as_the_worked_case(worked: dict[str, Any]) -> None:
    groups = groups_of([[[0, 5], [0, 0]]], [[0]], codes=THREE_LEVELS)
    multi = worked["D_multi"]
    assert structural_score(groups, context(), "recast")[0].tolist() == pytest.approx([multi["u"], 1])
    assert structural_score(groups, context(), "max_pair")[0].tolist() == pytest.approx([multi["max_over_pairs"], 1])
    assert structural_score(groups, context(), "depth_fraction")[0].tolist() == pytest.approx([2 / 3, 1])


def test_text_is_as_near_as_its_cosine() -> None:
    vectors = torch.zeros(16, 2)
    vectors[:5] = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]])
    seen = replace(context(), vectors=lambda: vectors)
    single = groups_of([[0, 1, 2, 3, 4, -1], [4, 1, 0, 0, 0, 0]], [[0, -1], [4, 2]])
    assert structural_score(single, seen, "embed_cos").tolist() == [
        pytest.approx([1, 0.6, 0, 0, 0, 0]),
        pytest.approx([1, 0.8, 0, 0, 0, 0]),  # an item is itself, whatever its text
    ]
    slates = groups_of([[[1, 2], [1, 1]]], [[0]])
    assert structural_score(slates, seen, "embed_cos")[0].tolist() == pytest.approx([0.3, 0.6])


def test_text_that_points_away_is_as_far_as_none_at_all() -> None:
    vectors = torch.zeros(16, 2)
    vectors[:2] = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    seen = replace(context(), vectors=lambda: vectors)
    assert structural_score(groups_of([[0, 1, 2]], [[0]]), seen, "embed_cos")[0].tolist() == [1, 0, 0]


def test_the_score_decides_which_miss_is_nearest() -> None:
    slates = [[[0, 3], [1, 5], [1, 3]]]  # of the misses: .055 or 1/2, and .05 or 1/3; at best .1 either way
    groups = groups_of(slates, [[0]], codes=THREE_LEVELS)
    groups.logp[0, 2] = 0.5
    for kind, negative in (("recast", 1), ("depth_fraction", 1), ("max_pair", 2)):
        made = run(groups, repair="never", struct_score=kind)
        assert made.advantage[0].tolist() == [1, *(-1.0 if place == negative else 0.0 for place in (1, 2))]


def test_a_miss_may_earn_less_than_nothing_but_not_be_unknown() -> None:
    groups = groups_of([[5, 6, 1]], [[5]])
    rewards = torch.tensor([[[0.5], [float("nan")], [-0.7]]])
    made = recast(groups, rewards, torch.ones(1), RecastOptions(), context())
    assert made.advantage[0].tolist() == [1, 0, -1]
    assert made.active[0].tolist() == [True, False, True]


def test_a_repaired_group_of_one_response_has_no_contrast() -> None:
    made = run(groups_of([[1, -1]], [[5]]))
    assert not made.active.any()
    assert not made.repaired.any()


def test_the_anchor_goes_on_behind_what_is_given() -> None:
    groups = groups_of([[6, 7]], [[5]])
    start = torch.tensor([2])  # behind the target's first token, 51
    assert small_trie().paths(torch.tensor([5]))[1].tolist() == [[0, 2]]
    made = run(replace(groups, prompts=replace(groups.prompts, start=start)))
    anchor = made.groups.tokens[0, 1][made.groups.mask[0, 1]]
    assert anchor.tolist() == [61]
    assert made.groups.nodes[0, 1, 0] == 2


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


def test_repair_puts_the_target_in_the_last_of_the_farthest_places(worked: dict[str, Any]) -> None:
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


def test_a_repaired_pair_may_count_for_the_share_that_is_repaired() -> None:
    groups = groups_of([[6, 1, 7, 9], [5, 1, 2, 3]], [[5], [5]])
    state = {"trainable": 0.25}
    fading = {"repair": "linear", "repair_decay": 1 - 1e-12, "anchor_weight": "share"}
    for seed in range(20):  # repaired with probability 1/2
        rewards = hit(groups, RewardOptions(), REWARD_CONTEXT).unsqueeze(-1)
        made = recast(groups, rewards, torch.ones(1), RecastOptions(**fading), context(state, seed=seed))
        assert made.advantage[1].tolist() == [1, -1, 0, 0]
        if made.repaired[0]:
            break
    assert made.advantage[0].tolist() == pytest.approx([-0.5, 0, 0, 0.5])


def test_a_target_that_is_none_of_the_candidates_is_not_put_in() -> None:
    groups = groups_of([[6, 1], [6, 1]], [[5], [5]])
    shown = replace(groups.prompts, pool=torch.tensor([[1, 5, 6], [1, 2, 6]]))
    made = run(replace(groups, prompts=shown))
    assert made.repaired.tolist() == [True, False]
    assert made.groups.items[..., 0].tolist() == [[6, 5], [6, 1]]


def test_which_groups_are_repaired_follows_from_the_steps_seed() -> None:
    groups = groups_of([[6, 1, 7, 9]] * 40, [[5]] * 40)
    rewards = hit(groups, RewardOptions(), REWARD_CONTEXT).unsqueeze(-1)
    options = RecastOptions(repair="linear", repair_decay=1 - 1e-12)

    def repaired(seed: int) -> list[bool]:
        made = recast(groups, rewards, torch.ones(1), options, context({"trainable": 0.25}, seed=seed))
        return made.repaired.tolist()

    assert repaired(0) == repaired(0) != repaired(1)
    assert 5 < sum(repaired(0)) < 35  # 20 on average


def test_a_group_of_hits_alone_is_not_trainable() -> None:
    groups = groups_of([[5, 5], [5, 1], [6, 1]], [[5], [5], [5]])
    assert run(groups, repair_decay=0.0).state["trainable"] == pytest.approx(1 / 3)


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


def test_the_share_of_repaired_groups_falls_as_groups_become_trainable(worked: dict[str, Any]) -> None:
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


def test_a_group_may_weigh_its_pair_by_all_of_its_responses() -> None:
    made = run(groups_of([[5, 1, 2, 3]], [[5]]), normalize_by="group", weight=2.0)
    assert made.advantage[0].tolist() == [1.0, -1.0, 0.0, 0.0]  # 2 x 2 rows / 4 responses
