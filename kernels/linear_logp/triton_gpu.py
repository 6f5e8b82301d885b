"""Log-probabilities from hidden states and the output matrix as Triton kernels; ``reference.py`` is the specification.

Over the whole vocabulary the [T, V] logits never exist. Forward: one kernel multiplies tile by tile and keeps a running
log-sum-exp. Backward: another recomputes the logits of some columns and writes their gradient to a bounded workspace,
which the vendor's matmul takes from there; no atomics, so equal inputs give equal gradients.

Over the legal continuations the matrix is small (the columns that can be legal at all), so the vendor multiplies, and a
kernel gathers, normalises and picks.

No kernel is specialised to a size: one compilation serves all batches, and it is the one that ``aot`` reports.

Letters: T tokens, H hidden size, V vocabulary, C legal continuations, K rows of a restricted output matrix, S splits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from recrl.kernels.launches import FLOATS, INTERPRETED, Launch, float_name
from recrl.kernels.linear_logp import chunked, triton_host
from recrl.kernels.linear_logp.reference import log_normaliser as log_normaliser
from recrl.kernels.linear_logp.triton_host import Kernels

PROGRAMS = 512
"""Programs wanted in a forward, to fill any device: few tokens are made up for by splits of the vocabulary."""


@triton.jit
def _logits(
    hidden: tl.tensor,
    weight: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    tokens: tl.tensor,
    end: tl.tensor,
    steps: tl.tensor,
    block_t: tl.constexpr,
    block_v: tl.constexpr,
    block_h: tl.constexpr,
    precision: tl.constexpr,
    upcast: tl.constexpr,
) -> tl.tensor:
    """[block_t, block_v] float32 logits; past the last token and column, those of the last are repeated."""
    total = tl.zeros((block_t, block_v), tl.float32)
    width = steps * block_h  # a multiple of 16 whatever H is, so that loads are wide
    inner = tl.arange(0, block_h)
    row = tl.minimum(row, tokens - 1).to(tl.int64)  # int64: V x H passes 2**31
    column = tl.minimum(column, end - 1).to(tl.int64)
    left_at = hidden + row[:, None] * width + inner[None, :]
    right_at = weight + column[None, :] * width + inner[:, None]
    for first in range(0, width, block_h):
        left = tl.load(left_at + first)
        right = tl.load(right_at + first)
        if upcast:
            left = left.to(tl.float32)
            right = right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision=precision)
    return total


@triton.jit
def _absorb(value: tl.tensor, kept: tl.tensor, largest: tl.tensor, total: tl.tensor, weighted: tl.tensor) -> tl.tensor:
    """One step of an online softmax (arXiv:1805.02867) that carries the entropy's sum along.

    Of the logits ``value`` [rows, columns] where ``kept``, and of all before: the largest, the sum of
    exp(logit - largest), and that sum weighted by logit - largest. ``largest`` begins at a finite number, since the
    difference of two of them is multiplied by a sum that is 0 at first.
    """
    larger = tl.maximum(largest, tl.max(tl.where(kept, value, float("-inf")), 1))
    shifted = tl.where(kept, value - larger[:, None], 0.0)
    mass = tl.where(kept, tl.exp(shifted), 0.0)
    shrink = tl.exp(largest - larger)
    weighted = shrink * (weighted + (largest - larger) * total) + tl.sum(mass * shifted, 1)
    return larger, shrink * total + tl.sum(mass, 1), weighted


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
    precision: tl.constexpr,
    upcast: tl.constexpr,
) -> None:
    """A program owns block_t tokens and one split (``share`` columns) of the vocabulary.

    ``statistics`` [4, S, T] takes, for every split: the largest logit m, the sum of exp(logit - m), that sum weighted
    by logit - m, and the target's logit (-inf where the split does not hold it).
    """
    row = tl.program_id(0) * block_t + tl.arange(0, block_t)
    split = tl.program_id(1)
    wanted = tl.load(target + row, mask=row < tokens, other=-1)
    largest = tl.full((block_t,), -1e30, tl.float32)
    total = tl.zeros((block_t,), tl.float32)
    weighted = tl.zeros((block_t,), tl.float32)
    chosen = tl.full((block_t,), float("-inf"), tl.float32)
    end = tl.minimum((split + 1) * share, vocabulary)
    for first in range(split * share, end, block_v):
        column = first + tl.arange(0, block_v)
        logits = _logits(hidden, weight, row, column, tokens, end, steps, block_t, block_v, block_h, precision, upcast)
        inside = (column < end)[None, :]
        is_target = inside & (column[None, :] == wanted[:, None])
        chosen = tl.maximum(chosen, tl.max(tl.where(is_target, logits, float("-inf")), 1))
        largest, total, weighted = _absorb(logits, inside, largest, total, weighted)
    splits = tl.num_programs(1).to(tl.int64)
    place = statistics + split.to(tl.int64) * tokens + row
    tl.store(place, largest, mask=row < tokens)
    tl.store(place + splits * tokens, total, mask=row < tokens)
    tl.store(place + 2 * splits * tokens, weighted, mask=row < tokens)
    tl.store(place + 3 * splits * tokens, chosen, mask=row < tokens)


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
    precision: tl.constexpr,
    upcast: tl.constexpr,
) -> None:
    """A program writes a tile of the logits' gradient in columns [begin, end) to ``workspace`` [T, end - begin]."""
    row = tl.program_id(0) * block_t + tl.arange(0, block_t)
    place = tl.program_id(1) * block_v + tl.arange(0, block_v)
    column = begin + place
    logits = _logits(hidden, weight, row, column, tokens, end, steps, block_t, block_v, block_h, precision, upcast)
    there = row < tokens
    wanted = tl.load(target + row, mask=there, other=-1)
    upstream = tl.load(grad + row, mask=there, other=0.0)
    probability = tl.exp(logits - tl.load(normaliser + row, mask=there, other=0.0)[:, None])
    is_target = column[None, :] == wanted[:, None]
    value = upstream[:, None] * (tl.where(is_target, 1.0, 0.0) - probability)
    start = row.to(tl.int64)[:, None] * (end - begin)
    mask = there[:, None] & (column < end)[None, :]
    tl.store(workspace + start + place[None, :], value.to(workspace.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["tokens", "columns", "width"])
def _legal_forward(
    logits: tl.tensor,
    target: tl.tensor,
    legal: tl.tensor,
    exists: tl.tensor,
    logp: tl.tensor,
    entropy: tl.tensor,
    normaliser: tl.tensor,
    tokens: tl.tensor,
    columns: tl.tensor,
    width: tl.tensor,
    block_t: tl.constexpr,
    block_c: tl.constexpr,
) -> None:
    """A program owns block_t tokens and walks over their ``width`` continuations; ``logits`` is [T, columns]."""
    row = tl.program_id(0) * block_t + tl.arange(0, block_t)
    there = row < tokens
    start = row.to(tl.int64) * columns
    largest = tl.full((block_t,), -1e30, tl.float32)
    total = tl.zeros((block_t,), tl.float32)
    weighted = tl.zeros((block_t,), tl.float32)
    for first in range(0, width, block_c):
        place = first + tl.arange(0, block_c)
        option = row.to(tl.int64)[:, None] * width + place[None, :]
        inside = there[:, None] & (place < width)[None, :]
        kept = inside & (tl.load(exists + option, mask=inside, other=0) != 0)
        column = tl.load(legal + option, mask=kept, other=0)
        value = tl.load(logits + start[:, None] + column, mask=kept, other=0.0).to(tl.float32)
        largest, total, weighted = _absorb(value, kept, largest, total, weighted)
    wanted = tl.load(target + row, mask=there, other=0)
    chosen = tl.load(logits + start + wanted, mask=there, other=0.0).to(tl.float32)
    total = tl.where(there, total, 1.0)  # it is 0 in the rows past the last
    log_total = tl.log(total)
    tl.store(logp + row, chosen - largest - log_total, mask=there)
    tl.store(entropy + row, log_total - weighted / total, mask=there)
    tl.store(normaliser + row, largest + log_total, mask=there)


@triton.jit(do_not_specialize=["tokens", "columns", "width"])
def _legal_backward(
    logits: tl.tensor,
    target: tl.tensor,
    legal: tl.tensor,
    exists: tl.tensor,
    normaliser: tl.tensor,
    grad: tl.tensor,
    dlogits: tl.tensor,
    tokens: tl.tensor,
    columns: tl.tensor,
    width: tl.tensor,
    block_t: tl.constexpr,
    block_c: tl.constexpr,
) -> None:
    """A program writes the gradient at the legal columns of block_t tokens; ``dlogits`` [T, columns] is 0 elsewhere.

    A column is legal once at most, so no two of these writes meet.
    """
    row = tl.program_id(0) * block_t + tl.arange(0, block_t)
    there = row < tokens
    start = row.to(tl.int64)[:, None] * columns
    wanted = tl.load(target + row, mask=there, other=-1)
    upstream = tl.load(grad + row, mask=there, other=0.0)
    log_sum = tl.load(normaliser + row, mask=there, other=0.0)
    for first in range(0, width, block_c):
        place = first + tl.arange(0, block_c)
        option = row.to(tl.int64)[:, None] * width + place[None, :]
        inside = there[:, None] & (place < width)[None, :]
        kept = inside & (tl.load(exists + option, mask=inside, other=0) != 0)
        column = tl.load(legal + option, mask=kept, other=0)
        value = tl.load(logits + start + column, mask=kept, other=0.0).to(tl.float32)
        probability = tl.exp(value - log_sum[:, None])
        value = upstream[:, None] * (tl.where(column == wanted[:, None], 1.0, 0.0) - probability)
        tl.store(dlogits + start + column, value.to(dlogits.dtype.element_ty), mask=kept)


_TILES: dict[str, dict[str, Any]] = {
    # tf32x3: three products on the tensor cores come to float32's precision.
    "fp32": {"block_t": 64, "block_v": 128, "block_h": 32, "precision": "tf32x3", "upcast": INTERPRETED},
    "bf16": {"block_t": 128, "block_v": 128, "block_h": 64, "precision": "ieee", "upcast": INTERPRETED},
}
_LEGAL_TILE = {"block_t": 16, "block_c": 64}


def _launches(dtype: str) -> dict[str, Launch]:
    """The four kernels for inputs of one type."""
    matrices = {"hidden": f"*{dtype}", "weight": f"*{dtype}", "target": "*i64"}
    sums = {"statistics": "*fp32", "tokens": "i32", "vocabulary": "i32", "steps": "i32", "share": "i32"}
    slopes = {"normaliser": "*fp32", "grad": "*fp32", "workspace": f"*{dtype}"}
    places = {"tokens": "i32", "begin": "i32", "end": "i32", "steps": "i32"}
    options = {"logits": f"*{dtype}", "target": "*i64", "legal": "*i64", "exists": "*i1"}
    results = {"logp": "*fp32", "entropy": "*fp32", "normaliser": "*fp32"}
    sizes = {"tokens": "i32", "columns": "i32", "width": "i32"}
    legal_slopes = {"normaliser": "*fp32", "grad": "*fp32", "dlogits": f"*{dtype}"}
    tile: dict[str, Any] = {"constants": _TILES[dtype], "num_warps": 8, "num_stages": 3}
    legal: dict[str, Any] = {"constants": _LEGAL_TILE, "num_warps": 4, "num_stages": 2}
    kernels = {
        "linear_logp forward": (_forward, {**matrices, **sums}, tile),
        "linear_logp dlogits": (_dlogits, {**matrices, **slopes, **places}, tile),
        "legal_logp forward": (_legal_forward, {**options, **results, **sizes}, legal),
        "legal_logp backward": (_legal_backward, {**options, **legal_slopes, **sizes}, legal),
    }
    return {
        name: Launch(f"{name} {dtype}", function, signature, **setting)
        for name, (function, signature, setting) in kernels.items()
    }


_TABLE = {dtype: _launches(dtype) for dtype in FLOATS.values()}
LAUNCHES: tuple[Launch, ...] = tuple(launch for row in _TABLE.values() for launch in row.values())


class _LegalLogp(torch.autograd.Function):
    """Over the legal continuations, from the logits [T, K]; the inputs are contiguous."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, legal: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
        logp, entropy, normaliser = logits.new_empty(3, len(logits), dtype=torch.float32)
        _run_legal("legal_logp forward", logits, target, legal, exists, logp, entropy, normaliser)
        ctx.save_for_backward(logits, target, legal, exists, normaliser)
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        logits, target, legal, exists, normaliser = ctx.saved_tensors
        dlogits = torch.zeros_like(logits)
        _run_legal("legal_logp backward", logits, target, legal, exists, normaliser, grad.contiguous(), dlogits)
        return dlogits, None, None, None


def _run_legal(kernel: str, logits: Tensor, target: Tensor, legal: Tensor, exists: Tensor, *others: Tensor) -> None:
    """Launch one of the two kernels, unless there is no token."""
    launch = _TABLE[float_name(logits)][kernel]
    if len(logits):
        grid = (triton.cdiv(len(logits), launch.constants["block_t"]),)
        launch.run(grid, logits, target, legal, exists, *others, *logits.shape, legal.shape[1])


def _kernels(dtype: str) -> Kernels:
    launches = _TABLE[dtype]
    return Kernels(
        launches["linear_logp forward"], launches["linear_logp dlogits"], lambda *tiles: tiles, programs=PROGRAMS
    )


def linear_logp(hidden: Tensor, weight: Tensor, target: Tensor, source: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As ``reference.linear_logp``: [S, H], [V, H], [T] -> [T] log-probabilities and entropies, float32.

    A state that several targets share is computed once for each of them.

    The logits are never rounded to the inputs' type. A target outside of [0, V) gives -inf.

    Raises:
        UserError: ``hidden`` and ``weight`` are not both float32 or both bfloat16.
    """
    hidden = hidden if source is None else hidden.index_select(0, source)
    return triton_host.linear_logp(hidden, weight, target, _kernels)


def legal_logp(
    hidden: Tensor, weight: Tensor, target: Tensor, legal: Tensor, exists: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As ``reference.legal_logp``: over the [T, C] legal continuations. With a bias torch computes it in chunks.

    The logits [T, V] do exist here: pass a ``weight`` of the rows alone that can be legal at all, and row numbers of it
    as ``target`` and ``legal``. Every token has a legal continuation, none of them twice, and its target among them.

    Raises:
        UserError: the logits are neither float32 nor bfloat16.
    """
    if bias is not None:
        return chunked.legal_logp(hidden, weight, target, legal, exists, bias)
    logits = hidden @ weight.t()
    apply: Callable[..., tuple[Tensor, Tensor]] = _LegalLogp.apply
    return apply(logits, target.contiguous(), legal.contiguous(), exists.contiguous())
