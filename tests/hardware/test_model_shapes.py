"""Shapes against transformers' own models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from recrl.errors import ConfigError, UserError
from recrl.hardware.model_shapes import SHAPES, ModelShape, find_shape, shape_of

CONFIGS: dict[str, type[PretrainedConfig]] = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
SMALL = {
    "vocab_size": 100, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
PUBLISHED = {"Qwen2.5-0.5B": 494_032_768, "Qwen2.5-7B": 7_615_616_512, "Qwen3-8B": 8_190_735_360}
"""Parameters, as the makers' model cards and indices of weights have them."""


def config_of(shape: ModelShape) -> PretrainedConfig:
    return CONFIGS[shape.family](
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads,
        head_dim=shape.head_size, tie_word_embeddings=shape.tied,
    )  # fmt: skip


def parameters(config: PretrainedConfig) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", SHAPES)
def test_a_built_in_size_has_the_parameters_of_transformers_model(name: str) -> None:
    assert SHAPES[name].parameters == parameters(config_of(SHAPES[name]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_built_in_size_has_the_published_parameters(name: str) -> None:
    assert SHAPES[name].parameters == PUBLISHED[name]


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_config_is_read_as_transformers_reads_it(tmp_path: Path, family: str, tied: bool) -> None:
    config = CONFIGS[family](**SMALL, tie_word_embeddings=tied)
    config.save_pretrained(tmp_path)
    shape = find_shape(str(tmp_path))
    assert shape.parameters == parameters(config)
    assert find_shape(str(tmp_path / "config.json")) == shape_of(config.to_dict(), str(tmp_path / "config.json"))


def test_what_a_config_leaves_out_follows_from_the_rest() -> None:
    values = {key: value for key, value in SMALL.items() if key not in ("num_key_value_heads", "head_dim")}
    shape = shape_of(values | {"model_type": "llama"}, "mine")
    assert (shape.key_heads, shape.head_size, shape.tied) == (4, 12, False)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "qwen3_moe"} | SMALL, "model_type = 'qwen3_moe'"),
        ({"model_type": "qwen3"}, "hidden_size = None"),
        ({"model_type": "qwen3"} | SMALL | {"vocab_size": 0}, "vocab_size = 0"),
        ([], "model_type = None"),
    ],
    ids=["family", "missing", "zero", "list"],
)
def test_a_config_that_can_not_be_is_told(tmp_path: Path, values: object, words: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=words):
        find_shape(str(path))


def test_a_model_that_is_not_there_and_bytes_that_are_no_json_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'Qwen3-8B'"):
        find_shape("Qwen3-8b")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        find_shape(str(tmp_path))
