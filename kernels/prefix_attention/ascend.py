"""Two-part attention on Ascend, in Triton; ``reference.py`` is the specification.

The kernels are those of ``triton_kernels.py``. Here the queries of a key head lie together: then a tile's lines follow
one another and are copied as a block, where the lines of ``triton_gpu.py`` would be read one by one, those past the
last one too. A program owns every n-th tile, as a grid ends at 65,535 programs.
"""

from __future__ import annotations

from torch import Tensor

from recrl.kernels.launches import FLOATS, Launch
from recrl.kernels.prefix_attention import triton_host

PROGRAMS = 120
"""Most programs of a launch: a multiple of 20 and of 24, the cube cores of the Ascend 910B's variants."""
_TABLE = triton_host.launches(
    # What the planner of ``aot_ascend`` finds room for. Ascend has no warps, and its compiler chooses the stages.
    dict.fromkeys(FLOATS.values(), ((64, 64, 4, 1), (32, 64, 4, 1))),
    precision="ieee",  # it has no tf32x3, and hf32 rounds what it multiplies, which the reference does not
    by_head=True,
    strided=True,
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
    return triton_host.attend(states, prompt_length, scaling, name="ascend", table=_TABLE, programs=PROGRAMS)
