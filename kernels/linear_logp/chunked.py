"""Log-probabilities in plain torch that never hold [T, V]: chunks of logits, worked on in tiles that fit a cache.

The forward pass keeps three sums of every token and chunk; the backward pass computes the logits again, a chunk at a
time. That is up to one matmul more than the reference needs and far less traffic: the reference passes some ten times
over tensors of [T, V]. Logits are kept, not computed again, where that takes little memory: see ``_Store``.

Letters: T tokens, S hidden states, H hidden size, V vocabulary, C legal continuations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recrl.kernels.linear_logp import reference
from recrl.kernels.linear_logp.reference import log_normaliser as log_normaliser
from recrl.kernels.linear_logp.sizes import CHUNK, KEPT, LEGAL_CHUNK, PLAIN

# Measured on a CPU with benchmarks/linear_logp.py, as are the sizes.
TILE = 2**17  # logits, for every thread: two tiles in float32 are half of a second-level cache of 2 MiB
BLOCK = 2048  # rows of one matmul
TURNED = 1024  # above this many rows x.t() @ y takes twice the time of x @ y in bfloat16
MATRIX_UNIT = bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)())
"""Whether the CPU multiplies bfloat16 matrices by a unit of their own (AMX); see ``_wide``."""


def linear_logp(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    source: Tensor | None = None,
    *,
    passes: type[Passes] | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``reference.linear_logp``, holding CHUNK logits at a time.

    For the backward pass there are KEPT logits more, and the memory of the weight's gradient is taken beforehand.
    """
    if len(hidden) * len(weight) <= PLAIN:
        return reference.linear_logp(hidden, weight, target, source)
    return _apply(_LinearLogp, hidden, weight, target, source, passes or Passes)


def legal_logp(
    hidden: Tensor, weight: Tensor, target: Tensor, legal: Tensor, exists: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As ``reference.legal_logp``, holding LEGAL_CHUNK logits at a time, and [T, C] for the backward pass.

    ``weight`` may be the rows alone that are legal anywhere; ``target`` and ``legal`` are then numbers of its rows.
    """
    if len(hidden) * len(weight) <= PLAIN:
        return reference.legal_logp(hidden, weight, target, legal, exists, bias)
    value, entropy = _apply(_LegalLogp, hidden, weight, target, legal, exists, bias)
    return value if bias is None else value + reference.bias_of(target, legal, exists, bias), entropy


def _apply(function: Any, hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Call an autograd function with autocast's casts made, since a matmul with ``out=`` makes none."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    trained = [part for part in (hidden, weight, *rest) if isinstance(part, Tensor) and part.requires_grad]
    differentiable = torch.is_grad_enabled() and bool(trained)
    value, entropy = function.apply(hidden, weight, differentiable, *rest)
    return value, entropy


@dataclass(frozen=True)
class _Grid:
    """How [T, V] is cut: chunks of a block of tokens by a span of the vocabulary, tiles of some lines of a chunk."""

    blocks: list[slice]
    spans: list[slice]
    rows: int
    width: int
    lines: int

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor) -> _Grid:
        """Even cuts, since a narrow last chunk would waste its matmul."""
        tokens, vocabulary = len(hidden), len(weight)
        rows = math.ceil(tokens / math.ceil(tokens / BLOCK))
        width = math.ceil(vocabulary / math.ceil(vocabulary / max(1, CHUNK // rows)))
        width = math.ceil(width / 64) * 64  # bfloat16 matmuls are a fifth slower at widths off a multiple of 32
        # Elsewhere than on a CPU no tile fits a cache, and every launch costs.
        tile = TILE * torch.get_num_threads() if hidden.device.type == "cpu" else rows * width
        lines = min(rows, max(1, tile // width))
        return cls(_cut(tokens, rows), _cut(vocabulary, width), rows, width, lines)


def _cut(size: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _matrix(buffer: Tensor, rows: int, columns: int) -> Tensor:
    """The start of a flat buffer, as a contiguous matrix."""
    return buffer[: rows * columns].view(rows, columns)


def _size(span: slice) -> int:
    return int(span.stop - span.start)


def _sums(logits: Tensor, scratch: Tensor, peak: Tensor, total: Tensor, moment: Tensor) -> None:
    """Into the last three the rows' maximum, sum of exp(x - maximum) and sum of (x - maximum) exp(x - maximum).

    Overwrites ``logits``, and leaves exp(x - maximum) in ``scratch``.
    """
    torch.amax(logits, 1, out=peak)
    logits.sub_(peak.unsqueeze(1))
    torch.exp(logits, out=scratch)
    torch.sum(scratch, 1, out=total)
    torch.sum(logits.mul_(scratch), 1, out=moment)


class Passes:
    """Elementwise passes over a chunk's logits, in tiles that fit a cache."""

    def __init__(self, grid: _Grid, hidden: Tensor) -> None:
        work = torch.promote_types(hidden.dtype, torch.float32)
        self.lines = grid.lines
        self.tile, self.scratch = hidden.new_empty(2, grid.lines * grid.width, dtype=work)

    def sums(self, logits: Tensor, sums: Tensor) -> None:
        """[S, V] logits -> into [3, S] what ``_sums`` gives."""
        rows, width = logits.shape
        for lines in _cut(rows, self.lines):
            part = _matrix(self.tile, _size(lines), width).copy_(logits[lines])
            _sums(part, _matrix(self.scratch, _size(lines), width), *sums[:, lines])

    def shares(self, logits: Tensor, shift: Tensor, factor: Tensor, out: Tensor) -> None:
        """[S, V] ``factor * exp(logits - shift)`` into ``out``, which may be the logits; a shift and factor a row."""
        rows, width = logits.shape
        shift, factor = shift.unsqueeze(1), factor.unsqueeze(1)
        for lines in _cut(rows, self.lines):
            part = _matrix(self.tile, _size(lines), width).copy_(logits[lines])
            out[lines] = part.sub_(shift[lines]).exp_().mul_(factor[lines])


def _spots(source: Tensor, target: Tensor, block: slice, span: slice) -> tuple[Tensor, Tensor]:
    """Which targets lie in a chunk, and where in its entries (after the last for the others)."""
    line, place = source - block.start, target - span.start
    rows, width = _size(block), _size(span)
    inside = (line >= 0) & (line < rows) & (place >= 0) & (place < width)
    return inside, torch.where(inside, line * width + place, rows * width)


def _at_targets(upstream: Tensor, value: Tensor, source: Tensor, logit: Tensor, of_state: Tensor) -> Tensor:
    """[T] gradients of the logits that are targets.

    Of a logit with probability p that is the target of gradients a, in a state with gradients g, it is a - g p. That is
    inexact where p is near 1: a (1 - p) - (g - a) p is not, with the log-probability for 1 - p.

    Args:
        upstream, value: [T] gradients of the log-probabilities, and these.
        logit: [T] numbers that are alike where targets have one logit.
        of_state: [S] sums of ``upstream`` over a state's targets.
    """
    _, alike = logit.unique(return_inverse=True)
    own = torch.zeros_like(upstream).index_add_(0, alike, upstream)[alike]
    return -own * torch.expm1(value) - (of_state[source] - own) * value.exp()


class _LinearLogp(torch.autograd.Function):
    """``linear_logp``, its logits computed chunk by chunk in both directions."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        differentiable: bool,
        target: Tensor,
        source: Tensor | None,
        passes: type[Passes],
    ) -> tuple[Tensor, Tensor]:
        weight[:, 0].gather(0, target)  # raises for an id outside the vocabulary, which no chunk would notice
        grid = _Grid.of(hidden, weight)
        work = torch.promote_types(hidden.dtype, torch.float32)
        states = torch.arange(len(hidden), device=hidden.device) if source is None else source
        sums = hidden.new_empty(3, len(grid.spans), len(hidden), dtype=work)
        chosen = hidden.new_zeros(len(target), dtype=work)
        buffer = hidden.new_empty(grid.rows * grid.width)
        over = passes(grid, hidden)
        store = _Store(hidden, weight, ctx.needs_input_grad[1]) if differentiable else None
        for number, span in enumerate(grid.spans):
            for block in grid.blocks:
                rows, width = _size(block), _size(span)
                room = store.room(block, span) if store else None
                logits = _matrix(buffer, rows, width) if room is None else room
                _mm(hidden[block], weight[span].t(), out=logits)
                inside, spot = _spots(states, target, block, span)
                picked = logits.view(-1).gather(0, spot.clamp(max=rows * width - 1)).to(work)
                chosen = torch.where(inside, picked, chosen)
                over.sums(logits, sums[:, number, block])
        normaliser, entropy = _merged(*sums)
        value = chosen - normaliser[states]
        entropy = entropy if source is None else entropy[source]
        ctx.save_for_backward(hidden, weight, target, source, normaliser, value)
        ctx.grid, ctx.store, ctx.passes = grid, store, passes
        ctx.mark_non_differentiable(entropy)
        return value.float(), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, target, source, normaliser, value = ctx.saved_tensors
        store, ctx.store = ctx.store or _Store(hidden, weight, ctx.needs_input_grad[1]), None  # None: a second pass
        grid: _Grid = ctx.grid
        work = normaliser.dtype
        of_state = upstream = upstream.to(work)
        if source is None:
            states = torch.arange(len(hidden), device=hidden.device)
            at_target = -upstream * torch.expm1(value)
        else:
            states = source
            of_state = upstream.new_zeros(len(hidden)).index_add_(0, source, upstream)
            at_target = _at_targets(upstream, value, source, source * len(weight) + target, of_state)
        at_target, factor = at_target.to(hidden.dtype), -of_state
        buffer = hidden.new_empty(grid.rows * grid.width + 1)  # the last takes what lies in other chunks
        over = ctx.passes(grid, hidden)
        for_hidden = torch.zeros_like(hidden, dtype=work) if ctx.needs_input_grad[0] else None
        for_weight = _WeightGradient(store.gradient, hidden, grid) if ctx.needs_input_grad[1] else None
        for span in grid.spans:
            for number, block in enumerate(grid.blocks):
                rows, width = _size(block), _size(span)
                chunk = _matrix(buffer, rows, width)
                logits = store.kept.pop((block.start, span.start), None)
                if logits is None:
                    logits = _mm(hidden[block], weight[span].t(), out=chunk)
                over.shares(logits, normaliser[block], factor[block], chunk)
                buffer.scatter_(0, _spots(states, target, block, span)[1], at_target)
                if for_hidden is not None:
                    _add_product(for_hidden[block], chunk, weight[span])
                if for_weight:
                    for_weight.add(number, span, chunk)
        of_weight = for_weight.result if for_weight else None
        return _cast(for_hidden, hidden.dtype), of_weight, None, None, None, None


class _Store:
    """Logits that the forward pass leaves for the backward pass, and the memory of the weight's gradient, [V, H].

    That memory is of no use before the gradient is written, and is written span by span. The logits of a span that
    starts at v lie in it from element v max(T, H) on: what is still to be read is always behind what has been written.
    So a share of H / T of the logits costs no memory, nor a second matmul.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, has_gradient: bool) -> None:
        self.gradient = weight.new_empty(weight.shape if has_gradient else 0)
        self.kept: dict[tuple[int, int], Tensor] = {}
        self.step = max(hidden.shape)
        self.left = KEPT

    def room(self, block: slice, span: slice) -> Tensor | None:
        """Memory for a chunk's logits, if there is some: in the gradient's, or else anew."""
        rows, width = _size(block), _size(span)
        begin = span.start * self.step + block.start * width
        end = begin + rows * width
        if end <= self.gradient.numel():
            room = self.gradient.view(-1)[begin:end].view(rows, width)
        elif rows * width <= self.left:
            self.left -= rows * width
            room = self.gradient.new_empty(rows, width)
        else:
            return None
        self.kept[block.start, span.start] = room
        return room


def _merged(peak: Tensor, total: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """[T] log-normalisers and float32 entropies of [N, T] sums over N spans of the vocabulary."""
    highest = peak.amax(0)
    lag = peak - highest
    share = lag.exp()
    whole = (total * share).sum(0)
    mean = ((moment + lag * total) * share).sum(0) / whole  # of x - highest
    return highest + whole.log(), (whole.log() - mean).float()


def _wide(matrix: Tensor) -> Tensor:
    """A factor of a product, in the dtype that its product is computed in.

    That is float32 for bfloat16 on a CPU without a matrix unit for it: AVX-512's bfloat16 products took twice the time
    of float32's. Chunks are small, so the copies are too; the result is rounded to the dtype of the factors as before.
    """
    slow = matrix.dtype == torch.bfloat16 and matrix.device.type == "cpu" and not MATRIX_UNIT
    return matrix.float() if slow else matrix


def _mm(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
    """A matrix product into ``out``."""
    left, right = _wide(left), _wide(right)
    return torch.mm(left, right, out=out) if left.dtype == out.dtype else out.copy_(torch.mm(left, right))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a matrix product to a sum of at least float32."""
    left, right = _wide(left), _wide(right)
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += torch.mm(left, right)


def _cast(gradient: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if gradient is None else gradient.to(dtype)


class _WeightGradient:
    """[V, H] product, whose sum over the blocks of tokens is in float32 at least; written span by span."""

    def __init__(self, result: Tensor, hidden: Tensor, grid: _Grid) -> None:
        self.result = result
        self.blocks = [hidden[block] for block in grid.blocks]
        work = torch.promote_types(hidden.dtype, torch.float32)
        self.sum = hidden.new_empty(hidden.shape[1] * grid.width if len(self.blocks) > 1 else 0, dtype=work)
        self.turned = hidden.dtype != work and len(hidden) > min(TURNED, grid.rows)
        if self.turned:
            self.blocks = [block.t().contiguous() for block in self.blocks]
            self.product = hidden.new_empty(hidden.shape[1] * grid.width)

    def add(self, number: int, span: slice, chunk: Tensor) -> None:
        """The share of a block of tokens; the blocks come in order, and only the last one's call writes the result."""
        out, block, last = self.result[span], self.blocks[number], number == len(self.blocks) - 1
        if self.turned:
            product = _mm(block, chunk, out=_matrix(self.product, len(block), chunk.shape[1]))
            if len(self.sum):
                whole = _matrix(self.sum, *product.shape)
                torch.add(whole, product, out=whole) if number else whole.copy_(product)
                product.copy_(whole)
            if last:
                out.copy_(product.t())
        elif len(self.sum):
            whole = _matrix(self.sum, *out.shape).addmm_(chunk.t(), block, beta=1 if number else 0)  # 0: not read
            if last:
                out.copy_(whole)
        else:
            _mm(chunk.t(), block, out=out)


class _LegalLogp(torch.autograd.Function):
    """``legal_logp``, block of tokens by block of tokens, with the probabilities kept for the backward pass.

    The bias counts in the normaliser alone: what it adds to the target's logit is for the caller.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        differentiable: bool,
        target: Tensor,
        legal: Tensor,
        exists: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        work = torch.promote_types(hidden.dtype, torch.float32)
        rows = max(1, LEGAL_CHUNK // len(weight))
        value, entropy = hidden.new_empty(2, len(hidden), dtype=work)
        probability = hidden.new_empty(legal.shape if differentiable else 0, dtype=work)
        buffer = hidden.new_empty(min(rows, len(hidden)) * len(weight))
        for block in _cut(len(hidden), rows):
            logits = _mm(hidden[block], weight.t(), out=_matrix(buffer, _size(block), len(weight)))
            chosen = logits.gather(1, target[block].unsqueeze(1)).squeeze(1)
            # A finite number in place of -inf, which times a probability of 0 would be NaN.
            offered = logits.gather(1, legal[block]).to(work)
            if bias is not None:
                offered += bias[block]
            offered.masked_fill_(~exists[block], torch.finfo(work).min)
            scratch = torch.empty_like(offered)
            peak, total, moment = hidden.new_empty(3, _size(block), dtype=work)
            _sums(offered, scratch, peak, total, moment)
            torch.sub(chosen, peak + total.log(), out=value[block])
            torch.sub(total.log(), moment / total, out=entropy[block])
            if differentiable:
                torch.div(scratch, total.unsqueeze(1), out=probability[block])
        entropy = entropy.float()
        ctx.save_for_backward(hidden, weight, target, legal, probability)
        ctx.mark_non_differentiable(entropy)
        return value.float(), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, target, legal, probability = ctx.saved_tensors
        work = probability.dtype
        upstream = upstream.to(work).unsqueeze(1)
        rows = max(1, LEGAL_CHUNK // len(weight))
        buffer = hidden.new_empty(min(rows, len(hidden)) * len(weight), dtype=work)
        narrow = buffer if hidden.dtype == work else torch.empty_like(buffer, dtype=hidden.dtype)
        for_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for_weight = torch.zeros_like(weight, dtype=work) if ctx.needs_input_grad[1] else None
        for block in _cut(len(hidden), rows):
            share = _matrix(buffer, _size(block), len(weight)).zero_()
            share.scatter_add_(1, legal[block], probability[block] * -upstream[block])
            share.scatter_add_(1, target[block].unsqueeze(1), upstream[block])
            chunk = _matrix(narrow, *share.shape).copy_(share)
            if for_hidden is not None:
                _mm(chunk, weight, out=for_hidden[block])
            if for_weight is not None:
                _add_product(for_weight, chunk.t(), hidden[block])
        for_bias = probability * -upstream if ctx.needs_input_grad[6] else None
        return for_hidden, _cast(for_weight, weight.dtype), None, None, None, None, for_bias
