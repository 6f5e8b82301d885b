"""The worlds that are measured: sizes as asked for, prompts known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recrl.bench.world import SHAPES, TEXT_TOKENS, WorldSize, history_of, random_codes, set_token_budget
from recrl.models.presets import preset_model
from recrl.training.rl import Rl


def test_every_prompt_of_every_step_has_the_length_that_was_asked_for(toy: WorldSize, rl: Rl) -> None:
    first, second = rl.environment.prompts(0), rl.environment.prompts(1)
    assert first.length.tolist() == [toy.prompt_tokens] * toy.prompts == [16, 16]
    assert sorted(map(tuple, first.ids.tolist())) == sorted(map(tuple, second.ids.tolist()))
    assert (first.targets.items >= 0).all()


def test_the_vocabulary_has_the_text_entries_four_marks_and_the_codes(rl: Rl) -> None:
    assert len(rl.policy.tokenizer) == TEXT_TOKENS + 4 + 3 * 256 == 1200


def test_a_step_updates_every_row_of_every_group(toy: WorldSize, rl: Rl) -> None:
    values = rl.step()
    assert values["signal/active_rows"] == toy.rows == 8
    assert values["actor/optimizer_steps"] == 1


@pytest.mark.parametrize("tokens", [32, 40, 200, 8192])
def test_the_longest_history_fits_into_the_prompt_and_one_more_item_does_not(tokens: int) -> None:
    size = WorldSize("0.3M", 1, history_of(tokens), 10, 1)
    assert size.prompt_tokens <= tokens < size.prompt_tokens + 3


def test_codes_of_items_are_distinct_and_cover_the_codebooks() -> None:
    codes = random_codes(5000)
    assert len(np.unique(codes, axis=0)) == 5000
    assert codes.min(0).tolist() == [0, 0, 0]
    assert codes.max(0).tolist() == [255, 255, 255]


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_about_the_parameters_that_its_name_says(name: str) -> None:
    with torch.device("meta"):
        model = preset_model("tiny", dict(SHAPES[name]), 1200, 0)
    number = sum(parameter.numel() for parameter in model.parameters())
    assert number == pytest.approx(float(name.removesuffix("M")) * 1e6, rel=0.1)


def test_a_token_budget_reaches_the_next_update(rl: Rl) -> None:
    set_token_budget(rl, 128)
    assert rl.config.backend.token_budget == 128
