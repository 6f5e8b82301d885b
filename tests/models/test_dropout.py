"""Dropout on hooks: where it acts, and that it leaves no trace in the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from worlds import tiny_model

from recrl.models.dropout import add_dropout

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
