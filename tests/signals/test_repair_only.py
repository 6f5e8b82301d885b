"""ReCast's repair under GRPO's signal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from groups_of import REWARD_CONTEXT, context, groups_of

from recrl.groups.rollout import RolloutGroups, Signal
from recrl.rewards.base import RewardOptions
from recrl.rewards.hit import hit
from recrl.signals.group_zscore import GroupZscoreOptions, group_zscore
from recrl.signals.repair_only import RepairOnlyOptions, repair_only


def run(groups: RolloutGroups, *, state: dict[str, float] | None = None, **options: Any) -> Signal:
    rewards = hit(groups, RewardOptions(), REWARD_CONTEXT).unsqueeze(-1)
    return repair_only(groups, rewards, torch.ones(1), RepairOnlyOptions(**options), context(state))


def test_a_lone_anchor_is_the_worked_case(worked: dict[str, Any]) -> None:
    groups = groups_of([[6, 1, 7, 9]], [[5]])
    made = run(groups)
    assert made.advantage[0].tolist() == pytest.approx(worked["D_repair_only_adv"], abs=2e-6)
    assert made.groups.items[0, :, 0].tolist() == [6, 1, 7, 5]
    assert made.repaired.tolist() == [True]
    assert made.active.all()
    assert groups.items[0, :, 0].tolist() == [6, 1, 7, 9]


def test_groups_with_a_hit_are_grpos() -> None:
    groups = groups_of([[5, 1, 2], [1, 5, 5]], [[5], [5]])
    rewards = hit(groups, RewardOptions(), REWARD_CONTEXT).unsqueeze(-1)
    plain = group_zscore(groups, rewards, torch.ones(1), GroupZscoreOptions(), context())
    made = run(groups)
    assert torch.equal(made.advantage, plain.advantage)
    assert made.groups is groups
    assert not made.repaired.any()


def test_it_takes_grpos_options() -> None:
    groups = groups_of([[6, 1, 7, 9]], [[5]])
    assert run(groups, scale_by_std=False).advantage[0].tolist() == [-0.25, -0.25, -0.25, 0.75]
    assert run(groups, ddof=0).advantage[0, 3].item() == pytest.approx(1.7320508, abs=1e-5)


def test_what_is_not_repaired_is_flat() -> None:
    unanswerable, alone = groups_of([[1, 2]], [[-1]]), groups_of([[1, -1]], [[5]])
    for made in (run(unanswerable), run(alone), run(groups_of([[1, 2]], [[5]]), repair="never")):
        assert not made.active.any()
        assert (made.advantage == 0).all()
        assert not made.repaired.any()
    assert run(unanswerable, drop_flat=False).active.all()


def test_repair_fades_as_in_recast() -> None:
    groups = groups_of([[1, 2]], [[5]])
    made = run(groups, repair="threshold", state={"trainable": 0.9, "repairing": 0.0})
    assert not made.repaired.any()
    assert made.state == {"trainable": pytest.approx(0.855), "repairing": 0.0}
