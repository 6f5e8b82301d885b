"""Models and tokenizers from scratch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recrl.errors import ConfigError
from recrl.models.presets import SHAPES, preset_model, preset_tokenizer, start_from_codebooks


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_preset_has_its_shape_and_tied_heads(name: str) -> None:
    model = preset_model(name, {}, 11, 0)
    assert model.config.hidden_size == SHAPES[name]["hidden_size"]
    assert len(model.model.layers) == SHAPES[name]["num_hidden_layers"]
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model(torch.tensor([[0, 10]])).logits.shape == (1, 2, 11)


def test_a_seed_is_a_model() -> None:
    first, again, other = (preset_model("tiny", {}, 9, seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_shape_changes_what_it_names() -> None:
    model = preset_model("tiny", {"num_attention_heads": 8, "num_key_value_heads": 2, "attention_dropout": 0.1}, 9, 0)
    attention = model.model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (64, 64)  # eight heads of 64 / 8
    assert attention.k_proj.weight.shape == (16, 64)
    assert attention.attention_dropout == 0.1


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"hiden_size": 8}, "hidden_size"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "multiple"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"head_dim": 7}, "head_dim"),
    ],
)
def test_sizes_that_do_not_fit_are_the_users_error(shape: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preset_model("tiny", dict(shape), 9, 0)


@pytest.mark.parametrize(
    "text", ["a red hat", "  two  spaces ", "naïve Ärmel – 帽子 🎩", "line\nbreak\ttab", "{curly}"]
)
def test_byte_level_bpe_gives_text_back(text: str) -> None:
    tokenizer = preset_tokenizer(["a red hat", "a blue hat"], 280)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


def test_bpe_learns_words_of_its_texts_up_to_its_size() -> None:
    texts = ["a red hat", "a red scarf", "a red belt"] * 20
    tokenizer = preset_tokenizer(texts, 270)
    assert 256 + 4 < len(tokenizer) <= 270 + 4
    assert len(tokenizer(" red")["input_ids"]) == 1
    assert len(preset_tokenizer(texts, 10)) == 256 + 4  # the bytes always fit


def test_marks_come_first_and_mean_what_the_model_says() -> None:
    for size in (0, 300):
        tokenizer = preset_tokenizer(["a hat"], size)
        marks = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
        assert marks == (0, 1, 2, 3)
    config = preset_model("tiny", {}, 9, 0).config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 1, 2)


def test_sid_tokens_start_near_each_other_where_their_centroids_are() -> None:
    model = preset_model("tiny", {}, 40, seed=0)
    before = model.get_input_embeddings().weight.detach().clone()
    rng = np.random.default_rng(0)
    books = [rng.normal(size=(8, 100)).astype(np.float32) for _ in range(2)]
    books[0][3] = books[0][5]  # two codes in one place
    start_from_codebooks(model, list(range(10, 26)), books)
    after = model.get_input_embeddings().weight.detach()
    torch.testing.assert_close(after[:10], before[:10])
    torch.testing.assert_close(after[26:], before[26:])
    rows = after[10:26]
    distance = torch.cdist(rows, rows) + torch.eye(16) * 100
    assert int(distance[3].argmin()) == 5
    assert float(distance[3, 5]) > 0
    assert float(rows.std()) == pytest.approx(float(before[10:26].std()), rel=0.2)
