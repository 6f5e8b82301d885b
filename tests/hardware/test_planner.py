"""Layouts: which are legal, which fit, and what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recrl.errors import UserError
from recrl.hardware.flops import TRAINING_PASSES, Products, forward_flops
from recrl.hardware.model_shapes import SHAPES
from recrl.hardware.planner import GIB, Assumptions, Job, Plan, plan, tensor_degrees
from recrl.hardware.profiles import load_profile
from recrl.hardware.step_load import StepLoad

FULL = StepLoad(32, 32, 1, 64, 1, 1, old_log_prob=False, reference=True, log_probs_a_step=0)
RECAST = replace(FULL, active=2, mini_batches=4, old_log_prob=True)
JOB = Job(SHAPES["Qwen3-8B"], RECAST, prompt_tokens=3300, response_tokens=3)


def planned(job: Job = JOB, profile: str = "ascend-910b3-64", **given: float) -> Plan:
    return plan(job, load_profile(profile), Assumptions(**given))  # type: ignore[arg-type]


def test_a_degree_divides_node_heads_and_width() -> None:
    legal, excluded = tensor_degrees(SHAPES["Qwen3-8B"], load_profile("h100-64"))
    assert legal == [1, 2, 4, 8]
    assert set(excluded) == {16, 32, 64}
    assert excluded[64] == "does not divide the devices of a node (8), the query heads (32), the key heads (8)"
    legal, excluded = tensor_degrees(SHAPES["Qwen2.5-7B"], load_profile("h100-8"))
    assert legal == [1, 2, 4]
    assert excluded == {8: "does not divide the query heads (28), the key heads (4)"}


def test_the_vocabulary_is_filled_up_as_long_as_every_device_has_some_of_it() -> None:
    odd, small = (replace(SHAPES["Qwen3-8B"], vocabulary=size) for size in (151_937, 10))
    assert tensor_degrees(odd, load_profile("h100-8"))[0] == [1, 2, 4, 8]
    assert tensor_degrees(small, load_profile("h100-8"))[1] == {8: "leaves a device without any of 10 tokens"}


def test_every_layout_uses_all_devices() -> None:
    layouts = planned().layouts
    assert {layout.share.tensor for layout in layouts} == {1, 2, 4, 8}
    assert all(layout.share.tensor * layout.share.data == 64 for layout in layouts)


def test_those_that_fit_come_first_and_the_fastest_of_them() -> None:
    layouts = planned().layouts
    fitting = [layout for layout in layouts if layout.fits]
    assert 0 < len(fitting) < len(layouts)
    assert layouts[: len(fitting)] == sorted(fitting, key=lambda layout: layout.seconds)


def test_a_layout_fits_exactly_where_its_memory_is_usable() -> None:
    for layout in planned(usable=0.5).layouts:
        assert layout.fits == (layout.memory.total <= 32 * GIB)
        if not layout.fits:
            assert f"needs {layout.memory.total / GIB:.1f} GiB in {layout.memory.moment}" in layout.why_not
            assert "32.0 of 64 are usable" in layout.why_not


def test_flops_are_those_of_the_formula_in_every_layout() -> None:
    one = forward_flops(Products.of(JOB.shape), JOB.per_prompt)
    for layout in planned().layouts:
        assert layout.phases["update"].flops == 64 * TRAINING_PASSES * one
        assert layout.phases["reference"].flops == 64 * one
        assert layout.phases["rollout"].flops == 64 * forward_flops(Products.of(JOB.shape), JOB.rolled_out)


def test_every_prompt_is_computed_once_whatever_the_group() -> None:
    assert JOB.actor_tokens == 64 * (3300 + 2 * 2)
    assert JOB.rollout_tokens == 64 * (3300 + 32 * 2)
    assert replace(JOB, load=FULL).actor_tokens == 64 * (3300 + 32 * 2)


def test_a_recipe_without_reference_or_old_log_probability_has_no_such_phase() -> None:
    lean = replace(FULL, reference=False)
    assert set(planned(replace(JOB, load=lean)).layouts[0].phases) == {"rollout", "update"}
    assert set(planned().layouts[0].phases) == {"rollout", "old_log_prob", "reference", "update"}
    held = {name: planned(replace(JOB, load=load)).layouts[0].memory.parts["reference"] for name, load in
            (("lean", lean), ("full", FULL))}  # fmt: skip
    assert held["lean"] == 0 < held["full"]


def test_mfu_is_the_updates_flops_over_time_and_peak() -> None:
    layout = planned().layouts[0]
    update = layout.phases["update"]
    assert layout.mfu == pytest.approx(update.flops / (update.seconds * 64 * 313e12))
    assert layout.mfu < 0.4  # what products were assumed to reach


def test_at_half_the_efficiency_products_take_twice_the_time_and_nothing_else_does() -> None:
    full, half = (planned(efficiency=share).layouts[0].phases["update"] for share in (0.4, 0.2))
    assert half.products_s == pytest.approx(2 * full.products_s)
    assert (half.memory_s, half.network_s) == (full.memory_s, full.network_s)


def test_copies_beyond_the_prompts_of_an_optimiser_step_stand_idle() -> None:
    alone = {layout.share.data: layout for layout in planned().layouts if layout.micro_prompts == 1}
    # 16 prompts a step: 32 and 64 copies have one each, or none.
    assert alone[64].phases["update"].products_s == pytest.approx(2 * alone[32].phases["update"].products_s)


def test_one_device_sends_nothing() -> None:
    job = replace(JOB, shape=SHAPES["Qwen3-0.6B"])
    for phase in planned(job, "h100").layouts[0].phases.values():
        assert phase.network_s == 0


def test_whole_moments_take_more_memory_than_split_ones() -> None:
    whole, split = (
        min(layout.memory.total for layout in planned(sharded_optimizer=sharded).layouts) for sharded in (False, True)
    )
    assert split < whole


def test_where_copies_step_what_they_own_the_weights_have_to_come_back() -> None:
    split, whole = (
        next(layout for layout in planned(sharded_optimizer=sharded).layouts if layout.share.tensor == 1)
        for sharded in (True, False)
    )
    gradients, weights = 2 * 63 / 64 * 4 * JOB.shape.parameters, 63 / 64 * 4 * JOB.shape.parameters
    assert whole.phases["update"].network_s == pytest.approx(4 * gradients / 25e9)
    assert split.phases["update"].network_s == pytest.approx(4 * (gradients + weights) / 25e9)


def test_float32_takes_the_float32_peak() -> None:
    narrow, wide = (planned(replace(JOB, dtype=dtype)).layouts for dtype in ("bfloat16", "float32"))
    fast, slow = (
        next(layout for layout in layouts if layout.share.tensor == 8 and layout.micro_prompts == 1)
        for layouts in (narrow, wide)
    )
    ratio = slow.phases["update"].products_s / fast.phases["update"].products_s
    assert ratio == pytest.approx(313 / 78.3)


@pytest.mark.parametrize(
    ("job", "given", "words"),
    [
        (replace(JOB, prompt_tokens=0), {}, "prompt tokens = 0"),
        (replace(JOB, response_tokens=0), {}, "response tokens = 0"),
        (JOB, {"efficiency": 0.0}, "efficiency = 0.0"),
        (JOB, {"usable": 1.5}, "usable = 1.5"),
    ],
    ids=["prompt", "response", "efficiency", "usable"],
)
def test_sizes_that_can_not_be_are_told(job: Job, given: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        planned(job, **given)
