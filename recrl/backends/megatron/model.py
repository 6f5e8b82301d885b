"""Megatron-core's ``GPTModel`` on one flat row of tokens; its attention asks a layout (``recrl.models.shared_prefix``).

Layers come from Megatron-core's local spec, with three modules of ours: attention over the layout, RMSNorm through our
op, and linear layers that heed autocast on any device. Stock attention needs CUDA and knows no shared prefix; stock
rotary positions heed no position ids. What runs is the same on CPU (gloo), CUDA (nccl) and Ascend (hccl).

Letters: T tokens of the flat row, R tokens whose last states are read, H hidden size, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from recrl.backends.megatron.shape import DecoderShape
from recrl.kernels.places import take
from recrl.models.shared_prefix import Layout


class LayoutAttention(nn.Module):
    """Core attention of a rank's heads. The layout travels in the mask's place: layers pass that on as it is."""

    def __init__(self, config: TransformerConfig, layer_number: int, **_: Any) -> None:
        super().__init__()
        self.layer = layer_number - 1
        self.is_last = layer_number == config.num_layers
        self.scaling = config.kv_channels**-0.5

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Layout, **_: Any) -> Tensor:
        """[T, 1, heads, D] queries, keys and values -> [T, 1, heads * D], or [R, 1, ...] of what is read at last."""
        layout = attention_mask
        query, key, value = (states.squeeze(1) for states in (query, key, value))
        if self.is_last and layout.read is not None:
            query = take(query, layout.read)
        with torch.autocast(query.device.type, enabled=False):
            out = layout.attend(self.layer, query, key, value, self.scaling)
        return out.to(value.dtype).flatten(1).unsqueeze(1)


class RmsNorm(nn.Module):
    """As ``kernels.rms_norm``."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float, rms_norm: Callable[..., Tensor]
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, dtype=config.params_dtype))
        self.epsilon = eps
        self.rms_norm = rms_norm

    def forward(self, states: Tensor) -> Tensor:
        return self.rms_norm(states, self.weight, self.epsilon)


class ColumnLinear(ColumnParallelLinear):  # type: ignore[misc]
    """Casts before it calls Megatron-core's autograd function, whose backward pass knows of autocast on CUDA alone."""

    def __init__(self, *sizes: int, **options: Any) -> None:
        super().__init__(*sizes, **(options | {"skip_bias_add": True}))  # the bias is cast, too

    def forward(self, input_: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        device = input_.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input_.dtype
        with torch.autocast(device, enabled=False):
            out, bias = super().forward(input_.to(dtype), self.weight.to(dtype))
        return out if bias is None else out + bias.to(dtype), None


class RowLinear(RowParallelLinear):  # type: ignore[misc]
    """The product through torch itself, which heeds autocast."""

    def forward(self, input_: Tensor) -> tuple[Tensor, None]:
        return reduce_from_tensor_model_parallel_region(functional.linear(input_, self.weight)), None


def build(shape: DecoderShape, ranks: int, rms_norm: Callable[..., Tensor]) -> GPTModel:
    """This rank's part of the model on the CPU, its weights not filled in.

    Args:
        ranks: that hold the model together; ``recrl.backends.megatron.parallel`` has started them.
    """
    spec = get_gpt_layer_local_spec(qk_layernorm=shape.qk_norm, normalization="RMSNorm")
    norm = ModuleSpec(module=RmsNorm, params={"rms_norm": rms_norm})
    layer = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = norm
    attention = layer.self_attention.submodules
    attention.core_attention, attention.linear_qkv, attention.linear_proj = LayoutAttention, ColumnLinear, RowLinear
    if shape.qk_norm:
        attention.q_layernorm = attention.k_layernorm = norm
    layer.mlp.submodules.linear_fc1, layer.mlp.submodules.linear_fc2 = ColumnLinear, RowLinear
    return GPTModel(
        config=_config(shape, ranks),
        transformer_layer_spec=TransformerBlockSubmodules(layer_specs=[spec] * shape.layers, layer_norm=norm),
        vocab_size=shape.vocabulary_share(ranks) * ranks,
        max_sequence_length=shape.max_positions,
        position_embedding_type="none",  # rotary ones are given to every layer
        share_embeddings_and_output_weights=shape.tied,
        parallel_output=True,
    )


def _config(shape: DecoderShape, ranks: int) -> TransformerConfig:
    return TransformerConfig(
        num_layers=shape.layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.intermediate_size,
        num_attention_heads=shape.heads,
        num_query_groups=shape.key_heads,
        kv_channels=shape.head_size,
        normalization="RMSNorm",
        layernorm_epsilon=shape.norm_epsilon,
        qk_layernorm=shape.qk_norm,
        add_qkv_bias=shape.qkv_bias,
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=functional.silu,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        # Fusions ask for Apex or TransformerEngine, which run on CUDA alone.
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        gradient_accumulation_fusion=False,
        tensor_model_parallel_size=ranks,
        use_cpu_initialization=True,
        perform_initialization=False,
        params_dtype=torch.float32,
        pipeline_dtype=torch.float32,
    )


def rotary_angles(shape: DecoderShape, positions: Tensor) -> Tensor:
    """[T] positions -> [T, 1, 1, D] angles, as Megatron-core's layers take them."""
    exponent = torch.arange(0, shape.head_size, 2, device=positions.device).float() / shape.head_size
    half = positions.float().unsqueeze(1) * (1.0 / shape.rope_theta**exponent)
    return torch.cat([half, half], 1)[:, None, None]


def last_states(model: GPTModel, ids: Tensor, angles: Tensor, layout: Layout, *, checkpointed: bool) -> Tensor:
    """[T] token ids of one flat row and [T, 1, 1, D] angles -> [T, H], or [R, H] of the tokens that the layout reads.

    Args:
        checkpointed: keep a layer's input alone for the backward pass, and compute its activations again there.
    """
    states = model.embedding(input_ids=ids.unsqueeze(0), position_ids=None)  # [T, 1, H]
    for layer in model.decoder.layers:
        if checkpointed and torch.is_grad_enabled():
            states = checkpoint(_layer, layer, states, angles, layout, use_reentrant=False)
        else:
            states = _layer(layer, states, angles, layout)
    out: Tensor = model.decoder.final_layernorm(states)
    return out.squeeze(1)


def _layer(layer: Any, states: Tensor, angles: Tensor, layout: Layout) -> Tensor:
    """[T, 1, H] -> the same; of the last layer [R, 1, H] of what is read."""
    added, _ = layer.self_attention(layer.input_layernorm(states), attention_mask=layout, rotary_pos_emb=angles)
    if len(added) < len(states):
        assert layout.read is not None
        states = take(states, layout.read)
    states = states + added
    out: Tensor = states + layer.mlp(layer.pre_mlp_layernorm(states))[0]
    return out
