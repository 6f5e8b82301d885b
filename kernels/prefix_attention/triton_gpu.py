"""Two-part attention as Triton kernels, forward and backward; ``reference.py`` is the specification.

The device code, and how it works, is in ``triton_kernels.py``, the node of the graph in ``triton_host.py``.
"""

from __future__ import annotations

from torch import Tensor

from recrl.kernels.launches import Launch
from recrl.kernels.prefix_attention import triton_host

_TABLE = triton_host.launches(
    {
        # The three products of tf32x3 hold three times the registers: larger tiles of float32 spill.
        "fp32": ((16, 32, 4, 1), (32, 16, 8, 1)),
        "bf16": ((64, 64, 8, 2), (32, 64, 8, 2)),
    },
    precision="tf32x3",  # three TF32 products each, nearly as exact as float32 and on the tensor cores
    by_head=False,
    strided=False,
)
LAUNCHES: tuple[Launch, ...] = tuple(launch for kernels in _TABLE.values() for launch in kernels.values())


def prefix_attention(
    query: Tensor,
    prompt_key: Tensor,
    prompt_value: Tensor,
    prompt_length: Tensor,
    own_key: Tensor,
    own_value: Tensor,
    *,
    scaling: float,
) -> Tensor:
    """As ``reference.prefix_attention``: [B, H, G, Q, D] queries, [B, J, P, D] and [B, J, G, K, D] keys and values.

    Raises:
        UserError: the inputs are not all float32 or all bfloat16, or the head size is above 128.
    """
    states = (query, prompt_key, prompt_value, own_key, own_value)
    return triton_host.attend(states, prompt_length, scaling, name="triton_gpu", table=_TABLE, programs=None)
