"""Fused layers: the same numbers and names as transformers', and models that they leave alone."""

from __future__ import annotations

import copy
import logging
import pickle
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from worlds import tiny_model

from recrl.kernels.ops import Ops
from recrl.kernels.registry import KERNELS, load
from recrl.kernels.shared_prefix_attention.rows import PrefixRows
from recrl.models.checkpoint import use_layouts
from recrl.models.dropout import add_dropout
from recrl.models.fused import OPS, fuse
from recrl.models.shared_prefix import Packed

KINDS = ("qwen3", "qwen2", "llama")
VOCABULARY = 20
IDS = torch.arange(4, 20)[torch.randperm(16, generator=torch.Generator().manual_seed(0))].view(2, 8)


@pytest.fixture(params=["native", "reference"])
def kernels(request: pytest.FixtureRequest) -> dict[str, ModuleType]:
    row = next(row for row in KERNELS["rms_norm"] if row.name == request.param)
    obstacle = row.obstacle("cpu")
    if obstacle:
        pytest.skip(obstacle)
    return {op: load(op, request.param) for op in OPS}


def pair(kind: str, kernels: dict[str, ModuleType]) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A model with norms that are not all ones, and its fused copy."""
    plain = tiny_model(kind, VOCABULARY)
    torch.manual_seed(1)
    for name, parameter in plain.named_parameters():
        if "norm" in name or "bias" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    fused = copy.deepcopy(plain)
    fuse(fused, kernels)
    assert type(fused.model.layers[0].self_attn) is not type(plain.model.layers[0].self_attn)
    return plain, fused


def passed(model: PreTrainedModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradients of a loss over them."""
    logits = model(IDS).logits
    model.zero_grad()
    nn.functional.cross_entropy(logits.float().flatten(0, 1), IDS.flatten()).backward()
    return logits.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_equal_passes(model: PreTrainedModel, expected: PreTrainedModel, tolerance: float = 1e-5) -> None:
    logits, gradients = passed(model)
    expected_logits, expected_gradients = passed(expected)
    torch.testing.assert_close(logits, expected_logits, atol=tolerance, rtol=tolerance)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=tolerance, rtol=tolerance, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_gradients_and_names_stay(kind: str, kernels: dict[str, ModuleType]) -> None:
    plain, fused = pair(kind, kernels)
    assert_equal_passes(fused, plain)
    assert list(fused.state_dict()) == list(plain.state_dict())
    for name, module in plain.named_modules():
        assert isinstance(fused.get_submodule(name), type(module))


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_computes_through_the_ops(kind: str, kernels: dict[str, ModuleType]) -> None:
    model = pair(kind, kernels)[1]
    calls = []

    def counted(op: str) -> ModuleType:
        module, function = ModuleType(op), "add_rms_norm" if op == "rms_norm" else op

        def counting(*values: object) -> object:
            calls.append(op)
            return getattr(kernels[op], function)(*values)

        setattr(module, function, counting)
        return module

    fuse(model, {op: counted(op) for op in OPS})  # over the first ops: a fused model takes others
    model(IDS)
    layers = len(model.model.layers)
    assert {op: calls.count(op) for op in OPS} == {
        "rms_norm": 2 * layers + 1,
        "swiglu": layers,
        "norm_rotary": 2 * layers,
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_attention_of_transformers_goes_on(kind: str, attention: str, kernels: dict[str, ModuleType]) -> None:
    plain, fused = pair(kind, kernels)
    for model in (plain, fused):
        model.set_attn_implementation(attention)
    assert_equal_passes(fused, plain)
    if attention == "eager":
        shares, expected = (model(IDS, output_attentions=True).attentions for model in (fused, plain))
        torch.testing.assert_close(shares, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_reach_the_attention(kind: str, kernels: dict[str, ModuleType]) -> None:
    plain, fused = pair(kind, kernels)
    expected = plain.model(IDS).last_hidden_state
    use_layouts(fused)
    rows = PrefixRows.alone(torch.tensor([8, 8]))
    flat = fused.model(
        IDS.view(1, -1),
        position_ids=torch.arange(8).repeat(2)[None],
        use_cache=False,
        layout=Packed(rows, Ops.pick("cpu"), reads_all=True),
    )
    torch.testing.assert_close(flat.last_hidden_state.view_as(expected), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layer_computes_what_is_read_alone(kind: str, kernels: dict[str, ModuleType]) -> None:
    plain, fused = pair(kind, kernels)
    use_layouts(fused)
    rows = PrefixRows(torch.tensor([5, 4]), torch.tensor([2, 1, 0]), torch.tensor([0, 0, 1]))
    ids = torch.cat([IDS[0, :5], IDS[1, :4], IDS[0, 5:]])[None]
    seen: list[int] = []
    last = fused.model.layers[-1]
    last.mlp.register_forward_hook(lambda _, __, out: seen.append(out.shape[1]))
    states, gradients = [], []
    for model, reads_all in ((fused, False), (fused, True)):
        layout = Packed(rows, Ops.pick("cpu"), reads_all=reads_all)
        found = model.model(ids, position_ids=rows.positions[None], use_cache=False, layout=layout).last_hidden_state[0]
        states.append(found if len(found) == len(rows.read) else found[rows.read])
        model.zero_grad()
        (states[-1] * torch.linspace(-1, 1, states[-1].numel()).view_as(states[-1])).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.model.named_parameters()})
    assert seen == [5, 12]  # two last tokens and three of the responses; all twelve
    torch.testing.assert_close(states[0], states[1], atol=1e-5, rtol=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-5, msg=name)
    alone = plain.model(torch.cat([IDS[:1, :5], IDS[:1, 5:7]], 1)).last_hidden_state[0]
    torch.testing.assert_close(states[0][[0, 2, 3]], alone[4:], atol=1e-5, rtol=1e-5)


def test_a_model_that_is_fused_again_has_one_last_layer(kernels: dict[str, ModuleType]) -> None:
    fused = copy.deepcopy(pair("qwen3", kernels)[1])
    classes = [type(layer) for layer in fused.model.layers]
    fuse(fused, kernels)
    assert [type(layer) for layer in fused.model.layers] == classes
    assert [layer.is_last for layer in fused.model.layers] == [False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_hook_keeps_is_not_overwritten(kind: str, kernels: dict[str, ModuleType]) -> None:
    plain, fused = pair(kind, kernels)
    kept: list[list[Tensor]] = [[], []]
    with torch.no_grad():
        for model, outputs in zip((plain, fused), kept, strict=True):
            expected = model(IDS).logits
            for layer in model.model.layers:
                for module in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.mlp.gate_proj):
                    module.register_forward_hook(lambda _, __, out, outputs=outputs: outputs.append(out))
            torch.testing.assert_close(model(IDS).logits, expected)
    torch.testing.assert_close(kept[1], kept[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_of_keys_still_works(kind: str, kernels: dict[str, ModuleType]) -> None:
    plain, fused = pair(kind, kernels)
    options = {"max_new_tokens": 6, "do_sample": False, "use_cache": True, "pad_token_id": 2, "eos_token_id": None}
    assert torch.equal(fused.generate(IDS, **options), plain.generate(IDS, **options))


def test_a_copy_has_weights_of_its_own_and_is_fused(kernels: dict[str, ModuleType]) -> None:
    plain, fused = pair("qwen3", kernels)
    twin = copy.deepcopy(fused)
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.zero_()
    assert_equal_passes(twin, plain)
    assert type(twin.model.norm) is type(fused.model.norm)
    assert not passed(fused)[0].any()


def test_a_fused_model_can_be_pickled(kernels: dict[str, ModuleType]) -> None:
    plain, fused = pair("llama", kernels)
    assert_equal_passes(pickle.loads(pickle.dumps(fused)), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_and_dropout_change_nothing(kind: str, kernels: dict[str, ModuleType]) -> None:
    plain, fused = pair(kind, kernels)
    fused.gradient_checkpointing_enable({"use_reentrant": False})
    for model in (plain, fused):
        add_dropout(model, 0.2)
        model.train()
    torch.manual_seed(3)
    logits, gradients = passed(fused)
    torch.manual_seed(3)
    expected, expected_gradients = passed(plain)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_it_is_as_near_to_float32_as_transformers(kind: str, kernels: dict[str, ModuleType]) -> None:
    plain, fused = pair(kind, kernels)
    exact, exact_gradients = passed(plain)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradients = passed(fused)
        expected, expected_gradients = passed(plain)
    assert value.dtype == expected.dtype
    assert distance(value, exact) < 1.5 * distance(expected, exact)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        theirs = distance(expected_gradients[name], exact_gradients[name])
        assert distance(gradient, exact_gradients[name]) < max(2 * theirs, 1e-3), name


def distance(value: Tensor, exact: Tensor) -> float:
    """Norm of the difference, as a share of the norm of what is exact."""
    return float((value.float() - exact).norm() / exact.norm())


def test_the_saved_model_is_a_stock_one(tmp_path: Path, kernels: dict[str, ModuleType]) -> None:
    plain, fused = pair("qwen3", kernels)
    fused.save_pretrained(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(stock.model.norm) is type(plain.model.norm)
    torch.testing.assert_close(stock(IDS).logits, plain(IDS).logits)


def test_another_family_is_left_alone_and_named(
    kernels: dict[str, ModuleType], caplog: pytest.LogCaptureFixture
) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_layer=1, n_head=2))
    classes = [type(module) for module in model.modules()]
    with caplog.at_level(logging.INFO):
        fuse(model, kernels)
    assert [type(module) for module in model.modules()] == classes
    assert "GPT2LMHeadModel has no layer that the fused ops know; left as it is" in caplog.text


def test_an_mlp_with_another_activation_is_left_alone_and_named(
    kernels: dict[str, ModuleType], caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    plain = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, hidden_act="gelu", **sizes)).eval()
    fused = copy.deepcopy(plain)
    with caplog.at_level(logging.INFO):
        fuse(fused, kernels)
    assert type(fused.model.layers[0].mlp) is type(plain.model.layers[0].mlp)
    assert type(fused.model.norm) is not type(plain.model.norm)
    assert "LlamaMLP: its activation is no SiLU; left as it is" in caplog.text
    assert_equal_passes(fused, plain)
