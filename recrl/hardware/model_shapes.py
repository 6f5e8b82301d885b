"""The shapes of dense decoders: what is multiplied and what is held follows from these numbers alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recrl.errors import ConfigError, UserError, nearest

FAMILIES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True)
class ModelShape:
    """A decoder of the families in ``FAMILIES``: RMSNorm, grouped queries, SwiGLU.

    Attributes:
        family: its ``model_type``.
        vocabulary: rows of the embedding and of the head.
        heads, key_heads: query heads of a layer, and heads of keys and of values.
        tied: the head is the embedding.
    """

    name: str
    family: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    tied: bool

    @property
    def query_width(self) -> int:
        """Entries of a token's queries in a layer."""
        return self.heads * self.head_size

    @property
    def key_width(self) -> int:
        """Entries of a token's keys in a layer, and of its values."""
        return self.key_heads * self.head_size

    @property
    def attention_weights(self) -> int:
        """Entries of a layer's matrices for queries, keys, values and output."""
        return self.hidden * 2 * (self.query_width + self.key_width)

    @property
    def mlp_weights(self) -> int:
        """Entries of a layer's matrices gate, up and down."""
        return 3 * self.hidden * self.intermediate

    @property
    def body_weights(self) -> int:
        """Entries of the matrices of all layers."""
        return self.layers * (self.attention_weights + self.mlp_weights)

    @property
    def head_weights(self) -> int:
        """Entries of the output matrix, and of the embedding."""
        return self.vocabulary * self.hidden

    @property
    def unread_weights(self) -> int:
        """Entries of the last layer's matrices that tokens do not pass whose last state is not read: all but those for
        keys and values.
        """
        return self.attention_weights - 2 * self.hidden * self.key_width + self.mlp_weights

    @property
    def vector_parameters(self) -> int:
        """Parameters that are no matrix: norms and biases."""
        layer = 2 * self.hidden
        if self.family == "qwen2":
            layer += self.query_width + 2 * self.key_width  # biases
        if self.family == "qwen3":
            layer += 2 * self.head_size  # norms of the heads
        return self.layers * layer + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; a tied matrix counts once."""
        return self.body_weights + self.head_weights * (1 if self.tied else 2) + self.vector_parameters


def _qwen(name: str, sizes: tuple[int, int, int, int, int, int], *, tied: bool = False) -> ModelShape:
    vocabulary, hidden, intermediate, layers, heads, key_heads = sizes
    family = "qwen3" if name.startswith("Qwen3") else "qwen2"
    head_size = 128 if family == "qwen3" else hidden // heads
    return ModelShape(name, family, vocabulary, hidden, intermediate, layers, heads, key_heads, head_size, tied)


SHAPES: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        _qwen("Qwen2.5-0.5B", (151936, 896, 4864, 24, 14, 2), tied=True),
        _qwen("Qwen2.5-1.5B", (151936, 1536, 8960, 28, 12, 2), tied=True),
        _qwen("Qwen2.5-3B", (151936, 2048, 11008, 36, 16, 2), tied=True),
        _qwen("Qwen2.5-7B", (152064, 3584, 18944, 28, 28, 4)),
        _qwen("Qwen2.5-14B", (152064, 5120, 13824, 48, 40, 8)),
        _qwen("Qwen2.5-32B", (152064, 5120, 27648, 64, 40, 8)),
        _qwen("Qwen2.5-72B", (152064, 8192, 29568, 80, 64, 8)),
        _qwen("Qwen3-0.6B", (151936, 1024, 3072, 28, 16, 8), tied=True),
        _qwen("Qwen3-1.7B", (151936, 2048, 6144, 28, 16, 8), tied=True),
        _qwen("Qwen3-4B", (151936, 2560, 9728, 36, 32, 8), tied=True),
        _qwen("Qwen3-8B", (151936, 4096, 12288, 36, 32, 8)),
        _qwen("Qwen3-14B", (151936, 5120, 17408, 40, 40, 8)),
        _qwen("Qwen3-32B", (151936, 5120, 25600, 64, 64, 8)),
    )
}
"""The models' own ``config.json``, by the names of their makers. SIDs add rows to the vocabulary of a trained one."""


def find_shape(model: str) -> ModelShape:
    """The shape of a model.

    Args:
        model: a key of ``SHAPES``, the path of a ``config.json``, or a folder that holds one.

    Raises:
        UserError: there is no such model, or its family is not one of ``FAMILIES``.
    """
    if model in SHAPES:
        return SHAPES[model]
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise UserError(
            f"model {model!r}",
            why="it is neither a built-in shape nor a config.json, nor a folder that holds one",
            fix=nearest(model, SHAPES),
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON", why=str(error), fix="give a model's config.json") from None
    return shape_of(values if isinstance(values, dict) else {}, model)


def shape_of(values: Mapping[str, Any], name: str) -> ModelShape:
    """The shape that a Hugging Face config states.

    Raises:
        ConfigError: a family that is not in ``FAMILIES``, or a size that is missing or no whole number from 1 up.
    """
    family = values.get("model_type")
    if family not in FAMILIES:
        raise ConfigError(
            f"{name}: model_type = {family!r}",
            why="only dense decoders of these families are modelled",
            fix=f"known: {', '.join(FAMILIES)}",
        )

    def size(key: str, default: int | None = None) -> int:
        value = values.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(
                f"{name}: {key} = {value!r}", why="it is no whole number from 1 up", fix="mend the config"
            )
        return value

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    return ModelShape(
        name=name,
        family=family,
        vocabulary=size("vocab_size"),
        hidden=hidden,
        intermediate=size("intermediate_size"),
        layers=size("num_hidden_layers"),
        heads=heads,
        key_heads=size("num_key_value_heads", heads),
        head_size=size("head_dim", max(1, hidden // heads)),
        tied=bool(values.get("tie_word_embeddings", False)),
    )
