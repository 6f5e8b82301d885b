from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from groups_of import REWARD_CONTEXT, groups_of

from recrl.method import Method
from recrl.training_sections import RlSection

COUNTS = torch.tensor([0, 1, 3, 8, *[4] * 12])
CONTEXT = replace(REWARD_CONTEXT, counts=COUNTS)


def paid(power: float, items: list[list[int]]) -> list[float]:
    method = Method.make(RlSection.model_validate({"rewards": [{"kind": "hit", "rarity_power": power}]}))
    groups = groups_of(items, targets=[[0, 1, 2, 3]])
    return method.reward(groups, CONTEXT)[0, :, 0].tolist()


def test_a_hit_on_a_rare_item_is_worth_more():
    # (n + 1)^-1 is 1, 1/2, 1/4 and 1/9; its mean over the 60 interactions, 48 of them with n = 4, is:
    scale = (1 * 1 / 2 + 3 * 1 / 4 + 8 * 1 / 9 + 48 * 1 / 5) / 60
    assert paid(1.0, [[0, 1, 2, 3]]) == pytest.approx([1 / scale, 1 / 2 / scale, 1 / 4 / scale, 1 / 9 / scale])


def test_a_slate_counts_by_the_mean_of_its_items_and_a_response_without_an_item_as_it_is():
    factor = CONTEXT.rarity(torch.tensor([[[0, 1], [3, -1], [-1, -1]]]), 1.0)[0].tolist()
    scale = (1 * 1 / 2 + 3 * 1 / 4 + 8 * 1 / 9 + 48 * 1 / 5) / 60
    assert factor == pytest.approx([0.75 / scale, 1 / 9 / scale, 1.0])


def test_power_zero_leaves_rewards_alone():
    assert paid(0.0, [[0, 1, 2, 3, 9]]) == [1, 1, 1, 1, 0]
