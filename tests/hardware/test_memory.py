"""Predicted memory against what autograd saves and what a process takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import worlds
from worlds import tiny_codes, tiny_policy, tiny_prompts

from recrl.groups.packed import PackedGroups, pack_active
from recrl.groups.rollout import Signal
from recrl.hardware.memory import (
    ELEMENTWISE,
    Engine,
    MicroBatch,
    Rollout,
    Share,
    activations,
    rollout_parts,
    state,
    step_memory,
)
from recrl.hardware.model_shapes import SHAPES, ModelShape, shape_of
from recrl.rollout.base import RolloutContext
from recrl.rollout.beam import BeamOptions, rollout
from recrl.training.kept_prompts import KeptPrompts
from recrl.training.optimizer import owners

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory_plan.py"
SMALL = {
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32,
}  # fmt: skip
PROMPTS = [200, 200]
TINY = ModelShape("tiny", "qwen3", 100, 8, 16, 2, 4, 2, 4, tied=True)
MICRO = MicroBatch(tokens=10, read=4, scored=4, accumulates=True)


def saved(monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str, kernels: dict[str, str]) -> tuple[int, int]:
    """Bytes of what autograd saves in a log-probability, the weights and their copies apart, and those predicted."""
    monkeypatch.setattr(worlds, "SHAPE", SMALL)
    policy = tiny_policy(kind, dtype=dtype, kernels=kernels)
    batch = packed(policy)
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    found: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy.logp(batch)
    shape = shape_of(policy.model.config.to_dict(), kind)
    copies = 2 * (shape.body_weights + shape.head_weights) if dtype == "bfloat16" else 0
    total = sum(tensor.untyped_storage().nbytes() for tensor in found.values()) - copies
    width = 2 if dtype == "bfloat16" else 4
    engine = Engine("cpu", width, "swiglu" not in kernels, "shared_prefix_attention" not in kernels)
    micro = MicroBatch(batch.effective_tokens, batch.states, batch.states, accumulates=False)
    return total, activations(shape, engine, Share(), micro)


def packed(policy: worlds.TransformersPolicy) -> PackedGroups:
    prompts = tiny_prompts(policy, PROMPTS)
    with torch.no_grad():
        groups = rollout(prompts, BeamOptions(group_size=8), RolloutContext(policy, policy.trie, tiny_codes(), 0))
    nothing = torch.zeros(len(PROMPTS), dtype=torch.bool)
    return pack_active(Signal(groups, torch.ones(groups.exists.shape), groups.exists, nothing), policy.ops)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_activations_are_what_autograd_saves(
    monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str, kernel: str
) -> None:
    kernels = {} if kernel == "auto" else dict.fromkeys(ELEMENTWISE, kernel)
    total, predicted = saved(monkeypatch, kind, dtype, kernels)
    assert predicted == pytest.approx(total, rel=0.02)


def test_prompts_that_a_rollout_has_read_are_copied_to_their_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "SHAPE", SMALL)
    policy = tiny_policy()
    kept, prompts = KeptPrompts(policy), tiny_prompts(policy, PROMPTS)
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    found: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.no_grad():
            groups = rollout(prompts, BeamOptions(group_size=8), RolloutContext(kept, policy.trie, tiny_codes(), 0))
        nothing = torch.zeros(len(PROMPTS), dtype=torch.bool)
        signal = Signal(groups, torch.ones(groups.exists.shape), groups.exists, nothing)
        batch = pack_active(signal, policy.ops)
        read = kept.of(signal, batch)
        assert read is not None
        policy.logp(batch, read)
    total = sum(tensor.untyped_storage().nbytes() for tensor in found.values())
    micro = MicroBatch(batch.effective_tokens, batch.states, batch.states, False, known=batch.prompt_tokens)
    shape = shape_of(policy.model.config.to_dict(), "qwen3")
    assert activations(shape, Engine("cpu"), Share(), micro) == pytest.approx(total, rel=0.02)


def test_padded_attention_saves_its_output_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32: in bfloat16 it makes further copies on a CPU, and on a CPU alone."""
    kernels = dict.fromkeys(ELEMENTWISE, "reference") | {"shared_prefix_attention": "padded"}
    total, predicted = saved(monkeypatch, "qwen3", "float32", kernels)
    assert predicted == pytest.approx(total, rel=0.07)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak can't be set back")
@pytest.mark.parametrize("stage", ["rl", "sft"])
def test_a_step_takes_what_is_predicted(stage: str) -> None:
    """The bound is wide, since so small a run is near the noise; ``benchmarks/memory_plan.py`` measures large ones."""
    case = {"stage": stage, "shape": "5M", "prompts": 4, "prompt_tokens": 256, "group": 8}
    words = [sys.executable, "-P", str(SCRIPT), "--case", json.dumps(case)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout)
    assert found["predicted"] == pytest.approx(found["peak"], rel=0.25)


def test_what_is_held_throughout_by_hand() -> None:
    assert TINY.parameters == 2 * (8 * 2 * (16 + 8) + 3 * 8 * 16) + 800 + 2 * (16 + 8) + 8
    count = TINY.parameters
    assert state(TINY, Share(), reference=True) == {
        "weights": 4 * count,
        "reference": 4 * count,
        "optimizer": 8 * count,
    }
    halved = state(TINY, Share(tensor=2), reference=False)
    assert halved["weights"] == 4 * ((count - TINY.vector_parameters) // 2 + TINY.vector_parameters)


def test_zero_1_splits_the_moments_over_the_copies_and_nothing_else() -> None:
    whole, split = (state(TINY, Share(1, 2, sharded), reference=False) for sharded in (False, True))
    assert split["optimizer"] == whole["optimizer"] / 2
    assert split["weights"] == whole["weights"]


def test_no_copy_owns_less_than_the_largest_matrix_where_another_one_owns_that() -> None:
    shape = SHAPES["Qwen3-8B"]
    assert Share(1, 64, sharded_optimizer=True).owned(shape) == shape.head_weights > shape.parameters / 64
    sizes = [shape.head_weights] * 2 + [shape.hidden * shape.intermediate] * 3 * shape.layers
    sizes += [shape.hidden * width for width in (shape.query_width, shape.key_width) * 2] * shape.layers
    held = [0] * 4
    for size, owner in zip(sizes, owners(sizes, 4), strict=True):
        held[owner] += size
    assert Share(1, 4, sharded_optimizer=True).owned(shape) == pytest.approx(max(held), rel=0.01)


def test_tensor_parallelism_splits_heads_and_width_and_no_hidden_state() -> None:
    shape, engine = SHAPES["Qwen3-8B"], Engine.of("npu", "bfloat16")
    one, eight = (activations(shape, engine, Share(tensor=degree), MICRO) for degree in (1, 8))
    hidden = activations(replace(shape, heads=0, key_heads=0, intermediate=0), engine, Share(), MICRO)
    assert eight - hidden == pytest.approx((one - hidden) / 8)


def test_keys_of_a_prompt_are_cached_once_and_those_of_beams_twice() -> None:
    cache = rollout_parts(TINY, Engine("cpu"), Share(), Rollout(prompts=3, prompt_tokens=10, group=4, steps=2))["cache"]
    key = 2 * 4 * TINY.layers * TINY.key_width
    assert cache == 3 * (10 + 2 * 4 * 2) * key


def test_gradients_lie_beside_a_forward_pass_only_where_they_accumulate() -> None:
    engine = Engine("cpu")
    several = step_memory(TINY, engine, Share(), MICRO)
    single = step_memory(TINY, engine, Share(), replace(MICRO, accumulates=False))
    difference = several.moments["backward"]["gradients"] - single.moments["backward"]["gradients"]
    assert difference == 4 * TINY.parameters
    assert several.moments["update"] == single.moments["update"]


def test_the_moment_that_holds_most_is_the_total() -> None:
    memory = step_memory(TINY, Engine("cpu"), Share(), replace(MICRO, tokens=10_000), rollout=Rollout(1, 10, 4, 2))
    assert memory.moment == "backward"
    assert memory.total == max(sum(parts.values()) for parts in memory.moments.values())
    tall = step_memory(TINY, Engine("cpu"), Share(), MICRO, rollout=Rollout(1000, 100, 4, 2))
    assert tall.moment == "rollout"


def test_logits_are_never_all_held() -> None:
    shape = SHAPES["Qwen3-8B"]
    micro = MicroBatch(tokens=50_000, read=50_000, scored=50_000, accumulates=False)
    every = 50_000 * shape.vocabulary * 4
    for device in ("cpu", "cuda", "npu"):
        parts = step_memory(shape, Engine.of(device, "float32"), Share(), micro).moments["backward"]  # type: ignore[arg-type]
        assert parts["logits"] < every / 100


def test_accelerators_have_no_fused_elementwise_ops_and_a_cpu_has() -> None:
    assert Engine.of("cpu", "float32") == Engine("cpu", 4, fused=True, flat=True)
    assert Engine.of("cuda", "bfloat16") == Engine("cuda", 2, fused=False, flat=False)
