"""FLOPs by our formula against torch's counter, the meter's, and the numbers that ReCast prints."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from worlds import tiny_codes, tiny_model, tiny_policy, tiny_prompts

from recrl.backends.torch_backend import TransformersPolicy
from recrl.groups.packed import PackedGroups, pack_active
from recrl.groups.rollout import Signal
from recrl.hardware.flops import (
    TRAINING_PASSES,
    Products,
    Work,
    forward_flops,
    shared_prompt,
    verl_training_flops,
)
from recrl.hardware.model_shapes import SHAPES, shape_of
from recrl.hardware.profiles import load_profile
from recrl.rollout.base import RolloutContext
from recrl.rollout.beam import BeamOptions, rollout
from recrl.training.meter import products_of_model, update_work

PROMPT, GROUP = 60, 8
REFERENCE = {
    "shared_prefix_attention": "reference",
    "prefix_attention": "reference",
    "linear_logp": "reference",
    "rms_norm": "reference",
    "swiglu": "reference",
    "norm_rotary": "reference",
}
"""torch does not see into ops in C."""

DEVICES, PROMPTS, RECAST_GROUP = 64, 64, 32
TABLE_4 = {
    "full": {"tokens": 6.93e6, "seconds": 211.04, "mfu": 0.0763, "rows": PROMPTS * RECAST_GROUP},
    "recast": {"tokens": 0.47e6, "seconds": 12.71, "mfu": 0.0872, "rows": PROMPTS * 2},
}
"""ReCast, Table 4: Qwen3-8B, the actor update of OpenOneRec-RL and of ReCast."""
ROW = TABLE_4["full"]["tokens"] / TABLE_4["full"]["rows"]
"""Tokens of a row: 3,384."""
VERL_910B = 354e12
"""FLOP/s of every 910B in verl's table."""


def packed(policy: TransformersPolicy) -> PackedGroups:
    """One prompt with all of its responses of full length."""
    prompts = tiny_prompts(policy, [PROMPT])
    groups = rollout(prompts, BeamOptions(group_size=GROUP), RolloutContext(policy, policy.trie, tiny_codes(), 0))
    active = groups.exists & (groups.mask.sum(-1) == groups.mask.sum(-1).max())
    signal = Signal(groups, torch.ones(1, GROUP), active, torch.zeros(1, dtype=torch.bool))
    return pack_active(signal, policy.ops)


def test_a_shared_prompt_is_what_the_engine_packs_of_responses_that_begin_apart() -> None:
    batch = packed(tiny_policy())
    apart = replace(batch, tokens=batch.tokens + torch.arange(len(batch)).unsqueeze(1))
    assert shared_prompt(PROMPT, len(apart), apart.sizes.rows.row[0]) == update_work(apart)
    assert update_work(batch).tokens < update_work(apart).tokens


def test_the_shared_prefix_update_costs_what_torch_counts() -> None:
    """The reference's attention computes squares: of the prompt, behind the mask as well and in the last layer too, and
    of every response over all that it may see, shared or not.
    """
    policy = tiny_policy(kernels=REFERENCE)
    batch = packed(policy)
    rows, fed = len(batch), batch.sizes.rows.row[0]
    work = update_work(batch)
    squares = PROMPT**2 + rows * fed * (PROMPT + fed)
    products = Products.of(shape_of(policy.model.config.to_dict(), "tiny"))
    ours = TRAINING_PASSES * forward_flops(products, replace(work, pairs=squares, unread_pairs=0))
    with FlopCounterMode(display=False) as counter:
        policy.logp(batch)[0].sum().backward()
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama"])
def test_plain_rows_cost_what_torch_counts(kind: str) -> None:
    """Stock eager attention computes the whole square; its last layer leaves nothing out."""
    model = tiny_model(kind, 50).train()
    model.set_attn_implementation("eager")
    work = Work(tokens=100, pairs=100**2, scored=100).times(3)
    ours = TRAINING_PASSES * forward_flops(Products.of(shape_of(model.config.to_dict(), kind)), work)
    with FlopCounterMode(display=False) as counter:
        model(torch.ones(3, 100, dtype=torch.long)).logits.sum().backward()
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama"])
def test_a_shape_multiplies_by_what_the_model_in_memory_does(kind: str) -> None:
    model = tiny_policy(kind).model
    shape, found = Products.of(shape_of(model.config.to_dict(), kind)), products_of_model(model)
    assert found == replace(shape, body=found.body, unread=found.unread)
    assert shape.body == pytest.approx(found.body, rel=0.02)  # norms and biases are no products
    assert shape.unread == pytest.approx(found.unread, rel=0.02)


def test_by_hand() -> None:
    work = shared_prompt(3, 2, 1)
    assert work == Work(tokens=5, pairs=6 + 2 * 4, scored=3, unread=2, unread_pairs=3)
    products = Products(body=100, head=10, channels=4, layers=2, unread=30)
    assert forward_flops(products, work) == 2 * 5 * 100 + 2 * 3 * 10 + 4 * 14 * 2 * 4 - 2 * 2 * 30 - 4 * 3 * 4


def table_4_flops(method: str, **how: object) -> float:
    """FLOPs of the table's tokens, in rows of equal length."""
    count = TABLE_4[method]["tokens"] / ROW
    return count * verl_training_flops(SHAPES["Qwen3-8B"], [ROW], **how)  # type: ignore[arg-type]


def peak(method: str, **how: object) -> float:
    """FLOP/s of a device at which the table's own time gives the table's own MFU."""
    row = TABLE_4[method]
    return table_4_flops(method, **how) / (row["seconds"] * DEVICES * row["mfu"])


@pytest.mark.parametrize("method", ["full", "recast"])
def test_verls_count_and_verls_peak_give_recasts_mfu(method: str) -> None:
    row = TABLE_4[method]
    mfu = table_4_flops(method, lookup=True) / (row["seconds"] * DEVICES * VERL_910B)
    assert mfu == pytest.approx(row["mfu"], rel=0.05)


@pytest.mark.parametrize("method", ["full", "recast"])
def test_without_the_lookup_recasts_mfu_is_that_of_a_910b3(method: str) -> None:
    row = TABLE_4[method]
    tflops = load_profile("ascend-910b3").bf16_tflops
    assert tflops is not None
    mfu = table_4_flops(method) / (row["seconds"] * DEVICES * tflops * 1e12)
    assert mfu == pytest.approx(row["mfu"], rel=0.05)


def test_both_mfu_imply_the_same_peak() -> None:
    assert peak("full", lookup=True) == pytest.approx(350.6e12, rel=1e-3)
    assert peak("recast", lookup=True) == pytest.approx(345.5e12, rel=1e-3)


def test_two_rows_of_32_leave_a_sixteenth_of_the_tokens_and_the_table_somewhat_more() -> None:
    """Rows of one length would give 16; 14.7 is printed, which rows of unequal length can do and we can't derive."""
    full, recast = (PROMPTS * rows * ROW for rows in (RECAST_GROUP, 2))
    printed = TABLE_4["full"]["tokens"] / TABLE_4["recast"]["tokens"]
    assert full / recast == 16
    assert printed == pytest.approx(16, rel=0.1)


def test_a_square_costs_twice_its_causal_half() -> None:
    shape = SHAPES["Qwen3-8B"]
    attention = 6 * ROW**2 * shape.query_width * shape.layers
    square, causal = (verl_training_flops(shape, [ROW], attention=how) for how in ("square", "causal"))
    assert square - causal == pytest.approx(attention)
