"""Models from scratch: Qwen3's shape in sizes that a CPU trains, and a tokenizer to go with them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from recrl.errors import ConfigError, nearest

RANDOM_SHARE = 0.3
BOS, END, PAD, UNKNOWN = "<|bos|>", "<|end|>", "<|pad|>", "<|unk|>"

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4},
    "small": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4},
    "base": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8},
}

SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
GIVEN = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


def preset_model(name: str, shape: dict[str, int | float | bool], vocab_size: int, seed: int) -> PreTrainedModel:
    """A Qwen3 decoder with random weights, tied embeddings, float32.

    Raises:
        ConfigError: ``shape`` names a key that Qwen3's config does not have, or sizes that do not fit together.
    """
    values: dict[str, int | float | bool] = {
        **SHAPES[name],
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    }
    values |= shape
    values.setdefault("num_key_value_heads", values["num_attention_heads"])
    values.setdefault("head_dim", int(values["hidden_size"]) // max(1, int(values["num_attention_heads"])))
    known = Qwen3Config().to_dict()
    for key in shape:
        if key not in known:
            raise ConfigError(f"model.shape.{key}", why="Qwen3's config has no such key", fix=nearest(key, known))
        if key in GIVEN:
            raise ConfigError(f"model.shape.{key}", why="the tokenizer and the data say it", fix="leave it out")
    _check_sizes(values)
    config = Qwen3Config(vocab_size=vocab_size, pad_token_id=2, eos_token_id=1, bos_token_id=0, **values)
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    model.generation_config.update(bos_token_id=0, eos_token_id=1, pad_token_id=2)
    return model


def _check_sizes(values: dict[str, int | float | bool]) -> None:
    for key in SIZES:
        size = values[key]
        if not isinstance(size, int) or size < 1:
            raise ConfigError(f"model.shape.{key} = {size}", why="a size is a whole number from 1 up", fix="give one")
    if values["head_dim"] % 2:
        raise ConfigError(
            f"model.shape.head_dim = {values['head_dim']}", why="rotary positions turn pairs", fix="make it even"
        )
    if values["num_attention_heads"] % values["num_key_value_heads"]:
        raise ConfigError(
            "model.shape", why="num_attention_heads must be a multiple of num_key_value_heads", fix="change one"
        )


@torch.no_grad()
def start_from_codebooks(model: PreTrainedModel, token_ids: list[int], codebooks: list[NDArray[np.float32]]) -> None:
    """Let SID tokens start near each other where their centroids are.

    The centroids of all levels, turned onto their principal directions and scaled to the spread of the random start,
    plus ``RANDOM_SHARE`` of that start, which keeps equal centroids apart.

    Args:
        token_ids: of level 0's codes, level 1's and so on.
        codebooks: [size, d] of every level.
    """
    matrix = model.get_input_embeddings().weight
    centroids = torch.from_numpy(np.concatenate(codebooks))
    left, values, _ = torch.linalg.svd(centroids, full_matrices=False)
    width = min(matrix.shape[1], len(values))
    turned = torch.zeros(len(centroids), matrix.shape[1])
    turned[:, :width] = left[:, :width] * values[:width]
    rows = torch.tensor(token_ids[: len(centroids)])
    spread = matrix[rows].std()
    matrix[rows] = turned * (spread / turned.std().clamp(min=1e-12)) + RANDOM_SHARE * matrix[rows]


def preset_tokenizer(texts: Iterable[str], text_vocab_size: int) -> PreTrainedTokenizerFast:
    """Four marks and, where ``text_vocab_size`` > 0, a byte-level BPE of that size trained on ``texts``."""
    marks = [BOS, END, PAD, UNKNOWN]
    if text_vocab_size > 0:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=max(text_vocab_size, len(alphabet)) + len(marks),
            special_tokens=marks,
            initial_alphabet=sorted(alphabet),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
    else:
        tokenizer = Tokenizer(models.WordLevel({mark: number for number, mark in enumerate(marks)}, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=END, pad_token=PAD, unk_token=UNKNOWN
    )
