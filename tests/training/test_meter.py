"""FLOPs against torch's own counter, and the names of the figures."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel
from worlds import SHAPE, tiny_codes, tiny_model, tiny_policy, tiny_prompts

from recrl.groups.packed import pack_active
from recrl.groups.rollout import Signal
from recrl.hardware.flops import Work
from recrl.models.presets import preset_model
from recrl.rollout.base import RolloutContext
from recrl.rollout.beam import BeamOptions, rollout
from recrl.training import meter as meters
from recrl.training.kept_prompts import KeptPrompts
from recrl.training.meter import Meter, products_of, products_of_model, read_work, update_work

CPU = torch.device("cpu")


class Counted(Meter):
    """A meter that shows what it counted."""

    @property
    def flops(self) -> float:
        return self._flops


def measured(model: PreTrainedModel, rows: int, length: int) -> int:
    """What a plain forward and backward of stock attention costs by torch's counter."""
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(torch.ones(rows, length, dtype=torch.long)).logits.sum().backward()
    total: int = counter.get_total_flops()
    return total


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("length", [8, 200])
def test_a_plain_row_costs_what_torch_counts(kind: str, length: int) -> None:
    """torch counts the whole [S, S] square of eager attention, so every pair is given, seen or not."""
    model = tiny_model(kind, 50).train()
    meter = Counted(products_of_model(model), CPU, "float32")
    meter.count(Work(3 * length, 3 * length * length, 3 * length))
    assert meter.flops == pytest.approx(measured(model, 3, length), rel=0.03)


def test_attention_counts_channels_of_heads_and_not_of_the_hidden_state() -> None:
    model = preset_model("tiny", {"hidden_size": 16, "num_attention_heads": 4, "head_dim": 32}, 50, 0)
    meter = Counted(products_of_model(model), CPU, "float32")
    meter.count(Work(300, 300 * 300, 300))
    assert meter.flops == pytest.approx(measured(model, 1, 300), rel=0.03)


def test_an_untied_head_costs_as_much_and_a_lookup_nothing() -> None:
    for tied in (True, False):
        model = preset_model("tiny", {"tie_word_embeddings": tied}, 5000, 0)
        meter = Counted(products_of_model(model), CPU, "float32")
        meter.count(Work(12, 12 * 12, 12))
        assert meter.flops == pytest.approx(measured(model, 1, 12), rel=0.03)


@pytest.mark.parametrize("reads", [True, False], ids=["whole", "behind-the-rollout"])
def test_the_shared_prefix_update_costs_what_torch_counts(reads: bool) -> None:
    """One prompt, so that nothing is padding; torch counts the prompt's causal square in full, where there is one: the
    last layer has a single query in it. An update that goes on from its rollout's prefill is spared its forward pass.
    """
    policy = tiny_policy(kernels={"shared_prefix_attention": "padded"})  # torch does not see into native ops
    prompts, kept = tiny_prompts(policy, [40]), KeptPrompts(policy)
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        groups = rollout(prompts, BeamOptions(group_size=8), RolloutContext(kept, policy.trie, tiny_codes(), 0))
    active = groups.exists & (groups.mask.sum(-1) == groups.mask.sum(-1).max())
    signal = Signal(groups, torch.ones(1, 8), active, torch.zeros(1, dtype=torch.bool))
    batch = pack_active(signal, policy.ops)
    read = None if reads else kept.of(signal, batch)
    meter = Counted(products_of(policy), CPU, "float32")
    meter.count(update_work(batch), spared=None if reads else read_work(batch))
    heads, layers = SHAPE["num_attention_heads"] * SHAPE["head_dim"], SHAPE["num_hidden_layers"]
    own = batch.mask.shape[1]
    behind_the_mask = (3 if reads else 2) * (layers - 1) * 40 * 39 // 2
    behind_the_mask += 3 * layers * len(batch) * own * (own - 1) // 2
    unseen = 4 * behind_the_mask * heads
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        logp, _ = policy.logp(batch, read)
        logp.sum().backward()
    assert meter.flops + unseen == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_figures_carry_verls_names_and_start_anew() -> None:
    meter = Meter(products_of_model(tiny_model("qwen3", 20)), CPU, "float32")
    with meter.time("update_actor"):
        torch.ones(300, 300) @ torch.ones(300, 300)
    with meter.time("gen"):
        pass
    meter.count(Work(100, 1000, 40))
    values = meter.take("update_actor")
    assert values["tokens/actor_effective"] == 100
    assert values["timing_s/update_actor"] > values["timing_s/gen"] >= 0
    assert values["perf/mfu/actor"] > 0
    assert values["perf/throughput"] == pytest.approx(100 / values["timing_s/update_actor"], rel=0.01)
    assert values["perf/max_memory_allocated_gb"] > 0
    after = meter.take("update_actor")
    assert after["tokens/actor_effective"] == 0
    assert "perf/mfu/actor" not in after


def test_verl_counts_the_lookup_and_the_head_at_every_token() -> None:
    """``estimate_flops`` of verl: 6 a parameter (embedding and head included) and token, and causal attention."""
    products = products_of_model(preset_model("tiny", {"tie_word_embeddings": False}, 5000, 0))
    rows = [30, 50]
    meter = Counted(products.as_verl, CPU, "float32")
    meter.count(Work(sum(rows), sum(length * length for length in rows) // 2, 7))
    weights = products.body + 2 * products.head
    attention = 6 * (30**2 + 50**2) * products.channels * products.layers
    assert meter.flops == 6 * weights * 80 + attention


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the device's peak is measured as, one call after the other."""
    given: list[float] = []
    calls: Iterator[float] = iter(given)
    monkeypatch.setattr(meters, "peak_flops", lambda *_: next(calls))
    return given


def shares(meter: Meter, monkeypatch: pytest.MonkeyPatch, flops: list[float]) -> list[float | None]:
    """MFU of steps of one second with so many FLOPs each."""
    found = []
    for step in flops:
        clock = iter([0.0, 1.0])
        monkeypatch.setattr(meters.time, "perf_counter", lambda clock=clock: next(clock))
        with meter.time("step"):
            meter._flops = step
        found.append(meter.take("step").get("perf/mfu/actor"))
    return found


def test_mfu_is_of_the_peak_of_all_devices(peaks: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    peaks.append(100.0)
    meter = Meter(products_of_model(tiny_model("qwen3", 20)), CPU, "float32", devices=4)
    assert shares(meter, monkeypatch, [100.0, 400.0]) == [0.25, 1.0]


def test_a_peak_that_a_step_exceeds_is_measured_again(
    peaks: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    peaks += [100.0, 400.0]
    meter = Meter(products_of_model(tiny_model("qwen3", 20)), CPU, "float32")
    assert shares(meter, monkeypatch, [50.0, 200.0, 100.0]) == [0.5, 0.5, 0.25]
    assert not caplog.records


def test_an_mfu_that_stays_above_1_is_left_out_with_one_warning(
    peaks: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    peaks += [100.0, 120.0]
    meter = Meter(products_of_model(tiny_model("qwen3", 20)), CPU, "float32")
    with caplog.at_level(logging.WARNING):
        assert shares(meter, monkeypatch, [350.0, 350.0, 60.0]) == [None, None, 0.5]
    assert caplog.messages == [
        "perf/mfu/actor is left out where it is above 1: 350 FLOP/s were counted, and products reach 120"
    ]
