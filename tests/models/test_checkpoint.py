"""Model folders against stock transformers, and the growth of a vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from worlds import SHAPE, tiny_index

from recrl.backends.torch_backend import TransformersPolicy
from recrl.errors import UserError
from recrl.models.checkpoint import grow_vocabulary, load_folder, save_folder, use_layouts
from recrl.models.presets import preset_model, preset_tokenizer
from recrl.models.shared_prefix import ATTENTION
from recrl.sids.tokens import add_sid_tokens, sid_token_ids
from recrl.sids.trie import build_trie

VOCABULARY = 24
KINDS = ("qwen3", "qwen2", "llama")


def model_of(kind: str, *, tied: bool, vocabulary: int = VOCABULARY) -> PreTrainedModel:
    torch.manual_seed(1)
    if kind == "qwen3":
        model = preset_model("tiny", {**SHAPE, "tie_word_embeddings": tied}, vocabulary, 1)
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary, tie_word_embeddings=tied, **SHAPE))
    else:
        model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=tied, **SHAPE))
    return model.eval()


def heads(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_gives_the_same_logits_in_stock_transformers(kind: str, tied: bool, tmp_path: Path) -> None:
    index = tiny_index()
    tokenizer = preset_tokenizer([], 0)
    model = model_of(kind, tied=tied, vocabulary=len(tokenizer))
    add_sid_tokens(tokenizer, index)
    grow_vocabulary(model, len(tokenizer), seed=3)
    trie = build_trie(sid_token_ids(tokenizer, index))
    policy = TransformersPolicy(model, tokenizer, trie, torch.device("cpu"))
    policy.save_pretrained(tmp_path)

    stock = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    again = AutoTokenizer.from_pretrained(tmp_path)
    ids = torch.tensor([again("<a_1><b_2><c_0><a_3><b_3><c_3>")["input_ids"]])
    assert ids.shape == (1, 6)
    ours = policy.causal_hidden(ids[0], torch.tensor([6])) @ policy.head.t()
    torch.testing.assert_close(stock(ids).logits[0], ours, atol=1e-5, rtol=1e-5)
    assert stock.config._attn_implementation != ATTENTION
    assert (heads(stock)[0] is heads(stock)[1]) == tied
    assert heads(stock)[0].shape[0] == len(tokenizer) == len(again)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_folder_is_saved_again_unchanged(kind: str, tmp_path: Path) -> None:
    tokenizer = preset_tokenizer(["a red hat"], 300)
    save_folder(model_of(kind, tied=kind != "llama", vocabulary=len(tokenizer)), tokenizer, tmp_path / "first")
    model, loaded = load_folder(tmp_path / "first")
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    save_folder(model, loaded, tmp_path / "second")
    # AutoTokenizer turns any tokenizer beside a Qwen2 model into a Qwen2Tokenizer, which cuts text in its own way.
    for name in ("model.safetensors", "config.json", *(["tokenizer.json"] if kind != "qwen2" else [])):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_growth_keeps_old_rows_and_puts_new_ones_near_the_mean(tied: bool) -> None:
    model = model_of("llama", tied=tied)
    before = [matrix.detach().clone() for matrix in heads(model)]
    assert grow_vocabulary(model, VOCABULARY + 6, seed=5) == 6
    assert model.config.vocab_size == VOCABULARY + 6
    for old, new in zip(before, heads(model), strict=True):
        assert new.shape == (VOCABULARY + 6, SHAPE["hidden_size"])
        assert torch.equal(new[:VOCABULARY], old)
        distance = new[VOCABULARY:] - old.mean(0)
        assert 0.01 < float(distance.detach().std() / old.std()) < 0.03  # a fiftieth of the spread
        assert len(new[VOCABULARY:].unique(dim=0)) == 6
    assert (heads(model)[0] is heads(model)[1]) == tied


def test_growth_follows_its_seed() -> None:
    grown = []
    for seed in (5, 5, 6):
        model = model_of("qwen2", tied=False)
        grow_vocabulary(model, VOCABULARY + 4, seed=seed)
        grown.append(torch.cat(heads(model)))
    assert torch.equal(grown[0], grown[1])
    assert not torch.equal(grown[0], grown[2])


def test_a_vocabulary_that_is_large_enough_stays() -> None:
    model = model_of("qwen3", tied=True)
    before = heads(model)[0].detach().clone()
    assert grow_vocabulary(model, VOCABULARY - 3, seed=0) == 0
    assert torch.equal(heads(model)[0], before)


def test_a_folder_that_holds_no_model_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model at"):
        load_folder(tmp_path)
    save_folder(model_of("qwen3", tied=True), preset_tokenizer([], 0), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="can't load the model"):
        load_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="can't load the model"):
        load_folder(tmp_path)


def test_sliding_windows_are_refused() -> None:
    model = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=8, use_sliding_window=True, sliding_window=4, max_window_layers=0, **SHAPE)
    )
    with pytest.raises(UserError, match="sliding-window"):
        use_layouts(model)
