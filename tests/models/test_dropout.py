"""Dropout on hooks: where it acts, and that it leaves no trace in the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from worlds import tiny_model

from recrl.models.dropout import add_dropout, dropped

IDS = torch.arange(4, 16)[None]


def logits(model: PreTrainedModel, *, train: bool, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        out: Tensor = model.train(train)(IDS).logits
    return out


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama"])
def test_it_acts_in_training_and_not_in_evaluation(kind: str) -> None:
    model = tiny_model(kind, 20)
    plain = logits(model, train=False)
    add_dropout(model, 0.3)
    assert torch.equal(logits(model, train=False), plain)
    first = logits(model, train=True)
    assert not torch.allclose(first, plain)
    assert torch.equal(logits(model, train=True), first)  # a seed is a mask
    assert not torch.equal(logits(model, train=True, seed=1), first)


def test_it_drops_the_wanted_share_of_embeddings_and_block_outputs_and_scales_the_rest() -> None:
    model = tiny_model("qwen3", 20).train()
    plain = model.get_input_embeddings()(IDS)
    blocks: list[Tensor] = []
    add_dropout(model, 0.25)
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(lambda _, __, output: blocks.append(output[0]))
        layer.mlp.register_forward_hook(lambda _, __, output: blocks.append(output))
    torch.manual_seed(0)
    dropped = model.get_input_embeddings()(IDS.expand(50, -1))
    share = float((dropped == 0).float().mean())
    assert abs(share - 0.25) < 0.02  # 19,200 entries: four standard errors are .0125
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], (plain.expand_as(dropped) / 0.75)[kept])
    model(IDS)
    assert len(blocks) == 4
    assert all(0.1 < float((block == 0).float().mean()) < 0.4 for block in blocks)


def test_rate_zero_hangs_nothing_on_the_model() -> None:
    model = tiny_model("qwen3", 20)
    add_dropout(model, 0.0)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_saved_model_is_a_stock_one(tmp_path: Path) -> None:
    names = set(tiny_model("qwen3", 20).state_dict())
    model = tiny_model("qwen3", 20)
    add_dropout(model, 0.5)
    assert set(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(stock.eval()(IDS).logits, logits(model, train=False), atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(stock, train=True), logits(stock, train=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_and_the_mean_are_those_of_the_rate_and_the_gradient_falls_where_values_stay(
    dtype: torch.dtype, rate: float
) -> None:
    torch.manual_seed(0)
    states = torch.ones(301, 333, dtype=dtype, requires_grad=True)  # 100,233 entries, no multiple of four
    out = dropped(states, rate)
    assert abs(float((out == 0).float().mean()) - rate) < 4 * (rate * (1 - rate) / out.numel()) ** 0.5
    assert float(out.detach().max()) == pytest.approx(1 / (1 - rate), rel=1e-4 if dtype == torch.float32 else 4e-3)
    (gradient,) = torch.autograd.grad(out.sum(), states)
    assert torch.equal(gradient, out.detach())


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = dropped(torch.ones(200_000), 0.5) > 0
    for apart in (1, 2, 3, 4):
        both = float((kept[:-apart] & kept[apart:]).float().mean())
        assert abs(both - 0.25) < 0.005  # five standard errors


def test_rates_next_to_the_ends_of_their_range_stay_finite() -> None:
    assert torch.equal(dropped(torch.ones(1000), 1e-9), torch.ones(1000))
    assert dropped(torch.ones(200_000), 1 - 1e-9).isfinite().all()
    assert dropped(torch.ones(0, 3), 0.5).shape == (0, 3)
