"""A decoder's elementwise ops (RMSNorm, head norm and rotary positions, SwiGLU) in the implementations picked.

The last layer computes no more than what is read of it, where a layout says so.

A layer's module becomes an instance of a subclass that computes the same thing through the ops, and keeps its weights,
hooks and names. Nothing of transformers is patched, and a copy of the model is fused as well. Of a model whose layers
are not in the table, nothing changes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama as llama
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen3 import modeling_qwen3 as qwen3

from recrl.kernels.places import take

logger = logging.getLogger(__name__)

OPS = ("rms_norm", "swiglu", "norm_rotary")
"""The ops that ``fuse`` wants, as the kernels' registry names them."""


class _Fused(nn.Module):
    """A module that calls a function of an op, which it holds under the function's name."""

    op: ClassVar[str]
    function: ClassVar[str]


class _RmsNorm(_Fused):
    op, function = "rms_norm", "add_rms_norm"
    add_rms_norm: Callable[..., tuple[Tensor, Tensor]]
    variance_epsilon: float
    weight: Tensor

    def forward(
        self, hidden_states: Tensor, added: Tensor | None = None, *, keep: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """[..., hidden] -> the norm of it, ``added`` included; with ``keep`` what was normed, and the norm."""
        pair = self.add_rms_norm(hidden_states, added, self.weight, self.variance_epsilon)
        return pair if keep else pair[1]


class _Mlp(_Fused):
    op = function = "swiglu"
    swiglu: Callable[..., Tensor]
    gate_proj: Callable[[Tensor], Tensor]
    up_proj: Callable[[Tensor], Tensor]
    down_proj: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.swiglu(self.gate_proj(x), self.up_proj(x), _gives_new_memory(self.gate_proj)))


class _Attention(_Fused):
    op = function = "norm_rotary"
    norm_rotary: Callable[..., Tensor]
    config: Any
    head_dim: int
    layer_idx: int
    scaling: float
    attention_dropout: float
    q_proj: Callable[[Tensor], Tensor]
    k_proj: Callable[[Tensor], Tensor]
    v_proj: Callable[[Tensor], Tensor]
    o_proj: Callable[[Tensor], Tensor]

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        read: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """[B, S, hidden] -> the same, and the attention's weights if it gives any; as transformers' own forward.

        With ``read`` ([R] tokens of B = 1 row) only their queries are computed, and [1, R, hidden] is returned.
        """
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        asked, turns = hidden_states, position_embeddings
        if read is not None:
            asked = _taken(hidden_states, read)
            turns = turns[0][:, read], turns[1][:, read]
        query = self._turned(asked, "q_proj", "q_norm", turns).transpose(1, 2)
        key = self._turned(hidden_states, "k_proj", "k_norm", position_embeddings).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        if hasattr(self, "sliding_window"):  # Llama's layers have none and pass none on
            kwargs["sliding_window"] = self.sliding_window
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, llama.eager_attention_forward)
        out, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(out.reshape(*asked.shape[:-1], -1)), weights

    def _turned(self, states: Tensor, projection: str, norm: str, turns: tuple[Tensor, Tensor]) -> Tensor:
        """[B, S, hidden] -> [B, S, heads, D]: projected, normed where the family has such norms, turned."""
        linear: Any = getattr(self, projection)
        heads = linear(states).view(*states.shape[:-1], -1, self.head_dim)
        found: Any = getattr(self, norm, None)
        weight, eps = (None, 0.0) if found is None else (found.weight, found.variance_epsilon)
        return self.norm_rotary(heads, weight, *turns, eps, _gives_new_memory(linear))


class _Layer(nn.Module):
    """A decoder's layer. In the last one, tokens that the layout does not name as read get keys and values alone."""

    is_last = False
    input_layernorm: Any
    self_attn: Any
    post_attention_layernorm: Any
    mlp: Any

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """[B, S, hidden] -> the same, or [1, R, hidden] of the tokens that are read; as transformers' own forward."""
        read: Tensor | None = getattr(kwargs.get("layout"), "read", None) if self.is_last else None
        hidden_states, normed = self.input_layernorm(hidden_states, keep=True)
        added, _ = self.self_attn(hidden_states=normed, read=read, **kwargs)
        if read is not None:
            hidden_states = _taken(hidden_states, read)
        hidden_states, normed = self.post_attention_layernorm(hidden_states, added, keep=True)
        out: Tensor = hidden_states + self.mlp(normed)
        return out


def _gives_new_memory(module: Any) -> bool:
    """Nobody else holds what it returns: a plain linear layer that nothing is hung on."""
    return type(module) is nn.Linear and not module._forward_hooks


def _taken(states: Tensor, read: Tensor) -> Tensor:
    """[1, T, H] -> [1, R, H]."""
    return take(states[0], read).unsqueeze(0)


# Named classes, one for each of transformers', so that copying and pickling find them.
class FusedQwen3RMSNorm(_RmsNorm, qwen3.Qwen3RMSNorm):  # type: ignore[misc]
    pass


class FusedQwen3MLP(_Mlp, qwen3.Qwen3MLP):  # type: ignore[misc]
    pass


class FusedQwen3Attention(_Attention, qwen3.Qwen3Attention):  # type: ignore[misc]
    pass


class FusedQwen2RMSNorm(_RmsNorm, qwen2.Qwen2RMSNorm):  # type: ignore[misc]
    pass


class FusedQwen2MLP(_Mlp, qwen2.Qwen2MLP):  # type: ignore[misc]
    pass


class FusedQwen2Attention(_Attention, qwen2.Qwen2Attention):  # type: ignore[misc]
    pass


class FusedLlamaRMSNorm(_RmsNorm, llama.LlamaRMSNorm):  # type: ignore[misc]
    pass


class FusedLlamaMLP(_Mlp, llama.LlamaMLP):  # type: ignore[misc]
    pass


class FusedLlamaAttention(_Attention, llama.LlamaAttention):  # type: ignore[misc]
    pass


class FusedQwen3Layer(_Layer, qwen3.Qwen3DecoderLayer):  # type: ignore[misc]
    pass


class FusedQwen2Layer(_Layer, qwen2.Qwen2DecoderLayer):  # type: ignore[misc]
    pass


class FusedLlamaLayer(_Layer, llama.LlamaDecoderLayer):  # type: ignore[misc]
    pass


LAYERS: dict[type[nn.Module], type[_Layer]] = {
    qwen3.Qwen3DecoderLayer: FusedQwen3Layer,
    qwen2.Qwen2DecoderLayer: FusedQwen2Layer,
    llama.LlamaDecoderLayer: FusedLlamaLayer,
}

FUSED: dict[type[nn.Module], type[_Fused]] = {
    qwen3.Qwen3RMSNorm: FusedQwen3RMSNorm,
    qwen3.Qwen3MLP: FusedQwen3MLP,
    qwen3.Qwen3Attention: FusedQwen3Attention,
    qwen2.Qwen2RMSNorm: FusedQwen2RMSNorm,
    qwen2.Qwen2MLP: FusedQwen2MLP,
    qwen2.Qwen2Attention: FusedQwen2Attention,
    llama.LlamaRMSNorm: FusedLlamaRMSNorm,
    llama.LlamaMLP: FusedLlamaMLP,
    llama.LlamaAttention: FusedLlamaAttention,
}


def fuse(model: PreTrainedModel, kernels: Mapping[str, ModuleType]) -> None:
    """Let the model's layers compute through the ops; a fused model changes to the ops given.

    Args:
        kernels: for each of ``OPS`` the module that was picked.
    """
    counts: Counter[str] = Counter()
    for module in model.modules():
        fused = FUSED.get(type(module), type(module))
        if not issubclass(fused, _Fused):
            continue
        if issubclass(fused, _Mlp) and not isinstance(module.act_fn, nn.SiLU | SiLUActivation):
            logger.info("%s: its activation is no SiLU; left as it is", type(module).__name__)
            continue
        module.__class__ = fused
        setattr(module, fused.function, getattr(kernels[fused.op], fused.function))
        counts[fused.op] += 1
    _fuse_layers(model)
    if counts:
        logger.info("%s computes through %s", type(model).__name__, ", ".join(f"{n} {op}" for op, n in counts.items()))
    else:
        logger.info("%s has no layer that the fused ops know; left as it is", type(model).__name__)


def _fuse_layers(model: PreTrainedModel) -> None:
    """Let the layers add and norm at once, and the last one leave out what is not read."""
    for module in model.modules():
        if type(module) in LAYERS:
            module.__class__ = LAYERS[type(module)]
    layers = [module for module in model.modules() if isinstance(module, _Layer)]
    if layers:
        layers[-1].is_last = True


def weights_left_out(model: PreTrainedModel) -> int:
    """Weights of the last layer that tokens which are not read do not pass; 0 where it computes all of them."""
    last = next((module for module in model.modules() if isinstance(module, _Layer) and module.is_last), None)
    if last is None:
        return 0
    parts = [last.self_attn.q_proj, last.self_attn.o_proj, last.mlp]
    return sum(parameter.numel() for part in parts for parameter in part.parameters())
