"""Log-probabilities from hidden states and the output matrix on Ascend; ``reference.py`` is the specification.

The method is that of ``triton_gpu.py``: a running log-sum-exp forward, and backward a bounded workspace of dlogits that
the vendor's matmul takes. What differs is what the compiler makes of it. Rows are read as whole tiles behind a mask: an
index held back by a minimum would be read element by element. Columns are compared as int32, as int64 is computed
without vectors. A grid has one dimension and ends at 65,535 programs, so each walks over several tiles. Tiles are such
that the planner of ``aot_ascend`` finds room for them in the 192 KiB of unified buffer.

Over the legal continuations a gather is most of the work, and Triton's would read one element after another: that
function is the one in plain torch.

Letters: T tokens, H hidden size, V vocabulary, S splits.
"""

# mypy: allow-untyped-decorators
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recrl.kernels.launches import FLOATS, INTERPRETED, Launch
from recrl.kernels.linear_logp import triton_host
from recrl.kernels.linear_logp.chunked import legal_logp as legal_logp
from recrl.kernels.linear_logp.reference import log_normaliser as log_normaliser
from recrl.kernels.linear_logp.triton_gpu import _absorb
from recrl.kernels.linear_logp.triton_host import Kernels

PROGRAMS = 120
"""Most programs of a launch: a multiple of 20 and of 24, the cube cores of the Ascend 910B's variants."""


@triton.jit
def _logits(
    hidden: tl.tensor,
    weight: tl.tensor,
    first_row: tl.tensor,
    first_column: tl.tensor,
    tokens: tl.tensor,
    end: tl.tensor,
    steps: tl.tensor,
    block_t: tl.constexpr,
    block_v: tl.constexpr,
    block_h: tl.constexpr,
    upcast: tl.constexpr,
) -> tl.tensor:
    """[block_t, block_v] float32 logits; 0 past the last token and column."""
    total = tl.zeros((block_t, block_v), tl.float32)
    width = steps * block_h
    inner = tl.arange(0, block_h)
    row = first_row + tl.arange(0, block_t)
    column = first_column + tl.arange(0, block_v)
    left_at = hidden + row.to(tl.int64)[:, None] * width + inner[None, :]  # int64: V x H passes 2**31
    right_at = weight + column.to(tl.int64)[:, None] * width + inner[None, :]
    for first in range(0, width, block_h):
        left = tl.load(left_at + first, mask=(row < tokens)[:, None], other=0.0)
        right = tl.load(right_at + first, mask=(column < end)[:, None], other=0.0)
        if upcast:
            left = left.to(tl.float32)
            right = right.to(tl.float32)
        total = tl.dot(left, tl.trans(right), total, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=["tokens", "vocabulary", "steps", "share"])
def _forward(
    hidden: tl.tensor,
    weight: tl.tensor,
    target: tl.tensor,
    statistics: tl.tensor,
    tokens: tl.tensor,
    vocabulary: tl.tensor,
    steps: tl.tensor,
    share: tl.tensor,
    block_t: tl.constexpr,
    block_v: tl.constexpr,
    block_h: tl.constexpr,
    upcast: tl.constexpr,
) -> None:
    """A program takes every n-th of the pieces of work, each block_t tokens and one split (``share`` columns).

    ``statistics`` [4, S, T] is as in ``triton_gpu.py``.
    """
    splits = tl.cdiv(vocabulary, share)
    for piece in range(tl.program_id(0), tl.cdiv(tokens, block_t) * splits, tl.num_programs(0)):
        first_row = piece // splits * block_t
        split = piece % splits
        row = first_row + tl.arange(0, block_t)
        wanted = tl.load(target + row, mask=row < tokens, other=-1)
        largest = tl.full((block_t,), -1e30, tl.float32)
        total = tl.zeros((block_t,), tl.float32)
        weighted = tl.zeros((block_t,), tl.float32)
        chosen = tl.full((block_t,), float("-inf"), tl.float32)
        end = tl.minimum((split + 1) * share, vocabulary)
        for first in range(split * share, end, block_v):
            column = first + tl.arange(0, block_v)
            logits = _logits(hidden, weight, first_row, first, tokens, end, steps, block_t, block_v, block_h, upcast)
            inside = (column < end)[None, :]
            is_target = inside & (column[None, :] == wanted[:, None])
            chosen = tl.maximum(chosen, tl.max(tl.where(is_target, logits, float("-inf")), 1))
            largest, total, weighted = _absorb(logits, inside, largest, total, weighted)
        place = statistics + split.to(tl.int64) * tokens + row
        step = splits.to(tl.int64) * tokens
        tl.store(place, largest, mask=row < tokens)
        tl.store(place + step, total, mask=row < tokens)
        tl.store(place + 2 * step, weighted, mask=row < tokens)
        tl.store(place + 3 * step, chosen, mask=row < tokens)


@triton.jit(do_not_specialize=["tokens", "begin", "end", "steps"])
def _dlogits(
    hidden: tl.tensor,
    weight: tl.tensor,
    target: tl.tensor,
    normaliser: tl.tensor,
    grad: tl.tensor,
    workspace: tl.tensor,
    tokens: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    steps: tl.tensor,
    block_t: tl.constexpr,
    block_v: tl.constexpr,
    block_h: tl.constexpr,
    upcast: tl.constexpr,
) -> None:
    """A program writes every n-th tile of the logits' gradient in columns [begin, end) to ``workspace``."""
    columns = tl.cdiv(end - begin, block_v)
    for piece in range(tl.program_id(0), tl.cdiv(tokens, block_t) * columns, tl.num_programs(0)):
        first_row = piece // columns * block_t
        first = piece % columns * block_v
        row = first_row + tl.arange(0, block_t)
        place = first + tl.arange(0, block_v)
        column = begin + place
        logits = _logits(
            hidden, weight, first_row, begin + first, tokens, end, steps, block_t, block_v, block_h, upcast
        )
        there = row < tokens
        wanted = tl.load(target + row, mask=there, other=-1)
        upstream = tl.load(grad + row, mask=there, other=0.0)
        probability = tl.exp(logits - tl.load(normaliser + row, mask=there, other=0.0)[:, None])
        is_target = column[None, :] == wanted[:, None]
        value = upstream[:, None] * (tl.where(is_target, 1.0, 0.0) - probability)
        start = row.to(tl.int64)[:, None] * (end - begin)
        mask = there[:, None] & (column < end)[None, :]
        tl.store(workspace + start + place[None, :], value.to(workspace.dtype.element_ty), mask=mask)


_TILE = {"block_t": 64, "block_v": 128, "block_h": 64, "upcast": INTERPRETED}


def _launches(dtype: str) -> dict[str, Launch]:
    """Both kernels for inputs of one type. Ascend has no warps, and its compiler chooses the stages."""
    matrices = {"hidden": f"*{dtype}", "weight": f"*{dtype}", "target": "*i32"}
    sums = {"statistics": "*fp32", **dict.fromkeys(("tokens", "vocabulary", "steps", "share"), "i32")}
    slopes = {"normaliser": "*fp32", "grad": "*fp32", "workspace": f"*{dtype}"}
    places = dict.fromkeys(("tokens", "begin", "end", "steps"), "i32")
    kernels = {"forward": (_forward, {**matrices, **sums}), "dlogits": (_dlogits, {**matrices, **slopes, **places})}
    return {
        name: Launch(f"linear_logp {name} {dtype}", function, signature, _TILE, num_warps=4, num_stages=1)
        for name, (function, signature) in kernels.items()
    }


_TABLE = {dtype: _launches(dtype) for dtype in FLOATS.values()}
LAUNCHES: tuple[Launch, ...] = tuple(launch for row in _TABLE.values() for launch in row.values())


def _kernels(dtype: str) -> Kernels:
    launches = _TABLE[dtype]
    return Kernels(
        launches["forward"],
        launches["dlogits"],
        lambda rows, columns: (min(rows * columns, PROGRAMS),),
        programs=PROGRAMS,
    )


def linear_logp(hidden: Tensor, weight: Tensor, target: Tensor, source: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As ``reference.linear_logp``: [S, H], [V, H], [T] -> [T] log-probabilities and entropies, float32.

    A state that several targets share is computed once for each of them.

    The logits are never rounded to the inputs' type. A target outside of [0, V) gives -inf.

    Raises:
        UserError: ``hidden`` and ``weight`` are not both float32 or both bfloat16.
    """
    hidden = hidden if source is None else hidden.index_select(0, source)
    # A target that int32 doesn't hold must not wrap into the vocabulary.
    target = target.clamp(-1, len(weight)).to(torch.int32)
    return triton_host.linear_logp(hidden, weight, target, _kernels)
