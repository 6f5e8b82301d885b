"""What a decoder of a Hugging Face config looks like to Megatron-core."""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers import PretrainedConfig

from recrl.errors import UserError

FAMILIES = {"qwen2": False, "qwen3": True}
"""Families of decoders, and whether they norm queries and keys."""


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of the whole model; heads are query heads."""

    vocabulary: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    norm_epsilon: float
    rope_theta: float
    max_positions: int
    tied: bool
    qk_norm: bool
    qkv_bias: bool

    @classmethod
    def of(cls, config: PretrainedConfig) -> DecoderShape:
        """Read a config.

        Raises:
            UserError: a decoder that is not built here.
        """
        if config.model_type not in FAMILIES:
            _refuse(
                f"the model's type is {config.model_type}", f"only {', '.join(FAMILIES)} are built with Megatron-core"
            )
        rope = config.rope_parameters
        if rope["rope_type"] != "default":
            _refuse(f"the model's rotary positions are of type {rope['rope_type']}", "only plain ones are built")
        if config.hidden_act != "silu":
            _refuse(f"the model's activation is {config.hidden_act}", "only silu is built")
        if config.use_sliding_window:
            _refuse("the model uses sliding-window attention", "responses would lose sight of their prompt")
        qk_norm = FAMILIES[config.model_type]
        if qk_norm and config.attention_bias:
            _refuse("the model's attention has biases", "of Qwen3 only layers without them are built")
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            config.vocab_size,
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            size,
            config.rms_norm_eps,
            rope["rope_theta"],
            config.max_position_embeddings,
            config.tie_word_embeddings,
            qk_norm=qk_norm,
            qkv_bias=not qk_norm,
        )

    def check(self, ranks: int) -> None:
        """Whether ``ranks`` can hold the model together.

        Raises:
            UserError: they can't.
        """
        for name, size in (("key heads", self.key_heads), ("MLP channels", self.intermediate_size)):
            if size % ranks:
                _refuse(f"backend.tensor_parallel = {ranks}", f"{size} {name} do not divide by it")
        if self.vocabulary <= (ranks - 1) * self.vocabulary_share(ranks):
            _refuse(f"backend.tensor_parallel = {ranks}", f"a rank would hold none of {self.vocabulary} tokens")

    def vocabulary_share(self, ranks: int) -> int:
        """Rows of a rank's embedding; the last ranks' are filled up."""
        return math.ceil(self.vocabulary / ranks)


def _refuse(found: str, why: str) -> None:
    raise UserError(found, why=why, fix="train it with backend.engine = 'torch', or choose other sizes")
