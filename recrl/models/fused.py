"""The elementwise ops of a decoder (RMSNorm, head norm and rotary positions, SwiGLU) in the implementations picked.

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

logger = logging.getLogger(__name__)

OPS = ("rms_norm", "swiglu", "norm_rotary")
"""The ops that ``fuse`` wants, as the kernels' registry names them."""


class _Fused(nn.Module):
    """A module that calls an op, which it holds under the op's name."""

    op: ClassVar[str]


class _RmsNorm(_Fused):
    op = "rms_norm"
    rms_norm: Callable[..., Tensor]
    variance_epsilon: float
    weight: Tensor

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.rms_norm(hidden_states, self.weight, self.variance_epsilon)


class _Mlp(_Fused):
    op = "swiglu"
    swiglu: Callable[..., Tensor]
    gate_proj: Callable[[Tensor], Tensor]
    up_proj: Callable[[Tensor], Tensor]
    down_proj: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.swiglu(self.gate_proj(x), self.up_proj(x)))


class _Attention(_Fused):
    op = "norm_rotary"
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
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """[B, S, hidden] -> the same, and the attention's weights if it gives any; as transformers' own forward."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self._turned(self.q_proj(hidden_states).view(shape), "q_norm", position_embeddings).transpose(1, 2)
        key = self._turned(self.k_proj(hidden_states).view(shape), "k_norm", position_embeddings).transpose(1, 2)
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
        return self.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), weights

    def _turned(self, heads: Tensor, norm: str, position_embeddings: tuple[Tensor, Tensor]) -> Tensor:
        found: Any = getattr(self, norm, None)
        weight, eps = (None, 0.0) if found is None else (found.weight, found.variance_epsilon)
        return self.norm_rotary(heads, weight, *position_embeddings, eps)


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
        setattr(module, fused.op, getattr(kernels[fused.op], fused.op))
        counts[fused.op] += 1
    if counts:
        logger.info("%s computes through %s", type(model).__name__, ", ".join(f"{n} {op}" for op, n in counts.items()))
    else:
        logger.info("%s has no layer that the fused ops know; left as it is", type(model).__name__)
