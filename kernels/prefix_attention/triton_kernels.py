"""Device code of the two-part attention; ``triton_gpu.py`` and ``ascend.py`` launch it.

The keys of a prompt meet the queries of all its responses in the same tiles, those of all heads that share a key head
included. A response is some five tokens, so a tile of queries covers several of them, and every query carries the range
of own keys that it sees.

The forward pass is an online softmax over the prompt's keys, then over the own keys (FlashAttention,
arXiv:2205.14135); it keeps one number a query, the base-2 logarithm of the softmax's sum. The backward pass recomputes
the weights from it: once for the queries, once for the keys of either part. No two programs add to one place, so it
needs no atomics and equal inputs give equal gradients.

Letters as in the reference; L = G * K own keys of a prompt, R = G * Q * H / J queries of a key head (the *rows*),
ordered by response, token and head. A query's *line* is its number among all queries as they lie in memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from recrl.kernels.launches import INTERPRETED

UNIT = tl.constexpr(16)
"""Strides and the head size come divided by this many elements: so the compiler knows that wide loads are aligned."""
LOG2_E = tl.constexpr(1.4426950408889634)
UPCAST = tl.constexpr(INTERPRETED)
"""The interpreter's product of bf16 is wrong."""


@triton.jit
def _dot(left: tl.tensor, right: tl.tensor, total: tl.tensor, precision: tl.constexpr) -> tl.tensor:
    if UPCAST:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=precision)


@triton.jit
def _numbers(tiles: tl.tensor, strided: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The tiles of a program, as a range: the one of its own number or, strided, every n-th from that one on.

    The loop over the former is no loop: the compiler sees that it ends after one step, and unrolls it.
    """
    number = tl.program_id(0)
    if strided:
        end, step = tiles, tl.num_programs(0)
    else:
        end, step = number + 1, 1
    return number, end, step


@triton.jit
def _owned(
    number: tl.tensor, lines: tl.tensor, key_heads: tl.tensor, block: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """First line, key head and prompt (both int64, to take strides) of a tile; neighbours read the same keys."""
    blocks = tl.cdiv(lines, block)
    group = (number // blocks).to(tl.int64)
    return number % blocks * block, group % key_heads, group // key_heads


@triton.jit
def _line(
    row: tl.tensor,
    batch: tl.tensor,
    key_head: tl.tensor,
    rows: tl.tensor,
    key_heads: tl.tensor,
    shared: tl.tensor,
    by_head: tl.constexpr,
) -> tl.tensor:
    """Where the queries of a key head stand among all queries (int64)."""
    if by_head:
        line = (batch * key_heads + key_head) * rows + row
    else:
        heads = key_heads * shared
        line = batch * (rows // shared * heads) + key_head * shared + (row // shared * heads + row % shared)
    return line


@triton.jit
def _queries(
    number: tl.tensor,
    rows: tl.tensor,
    key_heads: tl.tensor,
    shared: tl.tensor,
    block_q: tl.constexpr,
    by_head: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Rows and lines of a tile of queries, their key head and their prompt."""
    first_row, key_head, batch = _owned(number, rows, key_heads, block_q)
    row = first_row + tl.arange(0, block_q)
    return row, _line(row, batch, key_head, rows, key_heads, shared, by_head), key_head, batch


@triton.jit
def _own_range(row: tl.tensor, shared: tl.tensor, new: tl.tensor, own: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The own keys, of L, that a query sees: from the first to before the second."""
    token = row // shared
    begin = token // new * own
    return begin, begin + own - new + token % new + 1


@triton.jit
def _of_prompt(
    row: tl.tensor, prompt_length: tl.tensor, batch: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The prompt's keys that each of a tile's queries sees, from the first to before the second, and that any sees."""
    stop = tl.load(prompt_length + batch).to(tl.int32)
    return row * 0, row * 0 + stop, 0, stop


@triton.jit
def _of_response(
    row: tl.tensor, rows: tl.tensor, shared: tl.tensor, new: tl.tensor, own: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The own keys, likewise."""
    begin, end = _own_range(tl.minimum(row, rows - 1), shared, new, own)
    return begin, end, tl.min(begin, 0), tl.max(end, 0)


@triton.jit
def _tile(
    matrix: tl.tensor, line: tl.tensor, there: tl.tensor, stride: tl.tensor, size: tl.tensor, width: tl.constexpr
) -> tl.tensor:
    """[lines, width] of a matrix; 0 where a line isn't there and from the head size on."""
    column = tl.arange(0, width)[None, :]
    place = matrix + line.to(tl.int64)[:, None] * (stride * UNIT) + column
    return tl.load(place, there[:, None] & (column < size * UNIT), other=0.0)


@triton.jit
def _store(
    matrix: tl.tensor, line: tl.tensor, there: tl.tensor, value: tl.tensor, size: tl.tensor, width: tl.constexpr
) -> None:
    """Write a [lines, width] tile to a contiguous matrix."""
    column = tl.arange(0, width)[None, :]
    place = matrix + line.to(tl.int64)[:, None] * (size * UNIT) + column
    tl.store(place, value.to(matrix.dtype.element_ty), there[:, None] & (column < size * UNIT))


@triton.jit
def _part(
    key: tl.tensor,
    value: tl.tensor,
    batch: tl.tensor,
    key_head: tl.tensor,
    batch_stride: tl.tensor,
    head_stride: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    """Where the keys and values of one part begin for a prompt and a key head."""
    offset = (batch * batch_stride + key_head * head_stride) * UNIT
    return key + offset, value + offset


@triton.jit
def _attend(
    q: tl.tensor,
    peak: tl.tensor,
    total: tl.tensor,
    mean: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    stride: tl.tensor,
    size: tl.tensor,
    first_key: tl.tensor,
    stop: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    scaling: tl.tensor,
    block_k: tl.constexpr,
    precision: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Online softmax, in base 2, of a tile of queries over the keys of one part, each query over its range of them."""
    for first in range(first_key, stop, block_k):
        place = first + tl.arange(0, block_k)
        k = _tile(key, place, place < stop, stride, size, mean.shape[1])
        score = _dot(q, tl.trans(k), tl.zeros((q.shape[0], block_k), tl.float32), precision)
        seen = (place[None, :] >= begin[:, None]) & (place[None, :] < end[:, None])
        score = tl.where(seen, score * (scaling * LOG2_E), -float("inf"))
        higher = tl.maximum(peak, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(peak - higher)
        v = _tile(value, place, place < stop, stride, size, mean.shape[1])
        mean = _dot(weight.to(v.dtype), v, mean * shrink[:, None], precision)
        total = total * shrink + tl.sum(weight, 1)
        peak = higher
    return peak, total, mean


@triton.jit(do_not_specialize=["tiles"])
def forward(
    query: tl.tensor,
    prompt_key: tl.tensor,
    prompt_value: tl.tensor,
    prompt_length: tl.tensor,
    own_key: tl.tensor,
    own_value: tl.tensor,
    result: tl.tensor,
    log_sum: tl.tensor,
    prompt_batch: tl.tensor,
    prompt_head: tl.tensor,
    prompt_line: tl.tensor,
    own_batch: tl.tensor,
    own_head: tl.tensor,
    own_line: tl.tensor,
    rows: tl.tensor,
    key_heads: tl.tensor,
    shared: tl.tensor,
    new: tl.tensor,
    own: tl.tensor,
    size: tl.tensor,
    scaling: tl.tensor,
    tiles: tl.tensor,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
    width: tl.constexpr,
    precision: tl.constexpr,
    by_head: tl.constexpr,
    strided: tl.constexpr,
) -> None:
    """A program owns every n-th tile of the queries of a key head. ``*_batch``, ``*_head``, ``*_line`` are strides."""
    first_number, end_number, step = _numbers(tiles, strided)
    for number in range(first_number, end_number, step):
        row, line, key_head, batch = _queries(number, rows, key_heads, shared, block_q, by_head)
        there = row < rows
        q = _tile(query, line, there, size, size, width)
        # Finite, so that a tile of which a query sees nothing adds exp2(-inf - peak) = 0, not NaN.
        peak = tl.full((block_q,), -1e30, tl.float32)
        total = tl.zeros((block_q,), tl.float32)
        mean = tl.zeros((block_q, width), tl.float32)
        k, v = _part(prompt_key, prompt_value, batch, key_head, prompt_batch, prompt_head)
        begin, end, first, stop = _of_prompt(row, prompt_length, batch)
        peak, total, mean = _attend(
            q, peak, total, mean, k, v, prompt_line, size, first, stop, begin, end, scaling, block_k, precision
        )
        k, v = _part(own_key, own_value, batch, key_head, own_batch, own_head)
        begin, end, first, stop = _of_response(row, rows, shared, new, own)
        peak, total, mean = _attend(
            q, peak, total, mean, k, v, own_line, size, first, stop, begin, end, scaling, block_k, precision
        )
        tl.store(log_sum + line, peak + tl.log2(total), there)  # first: after the quotients, registers would spill
        _store(result, line, there, mean / total[:, None], size, width)


@triton.jit
def _pull(
    q: tl.tensor,
    grad: tl.tensor,
    log_sum: tl.tensor,
    delta: tl.tensor,
    total: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    stride: tl.tensor,
    size: tl.tensor,
    first_key: tl.tensor,
    stop: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    scaling: tl.tensor,
    block_k: tl.constexpr,
    precision: tl.constexpr,
) -> tl.tensor:
    """Add what comes through the keys of one part to ``total``, the gradient of a tile of queries over ``scaling``."""
    nothing = tl.zeros((q.shape[0], block_k), tl.float32)
    for first in range(first_key, stop, block_k):
        place = first + tl.arange(0, block_k)
        k = _tile(key, place, place < stop, stride, size, total.shape[1])
        v = _tile(value, place, place < stop, stride, size, total.shape[1])
        score = _dot(q, tl.trans(k), nothing, precision) * (scaling * LOG2_E)
        seen = (place[None, :] >= begin[:, None]) & (place[None, :] < end[:, None])
        weight = tl.exp2(tl.where(seen, score - log_sum[:, None], -float("inf")))
        slope = weight * (_dot(grad, tl.trans(v), nothing, precision) - delta[:, None])
        total = _dot(slope.to(k.dtype), k, total, precision)
    return total


@triton.jit(do_not_specialize=["tiles"])
def backward_query(
    query: tl.tensor,
    prompt_key: tl.tensor,
    prompt_value: tl.tensor,
    prompt_length: tl.tensor,
    own_key: tl.tensor,
    own_value: tl.tensor,
    result: tl.tensor,
    log_sum: tl.tensor,
    grad: tl.tensor,
    delta: tl.tensor,
    grad_query: tl.tensor,
    prompt_batch: tl.tensor,
    prompt_head: tl.tensor,
    prompt_line: tl.tensor,
    own_batch: tl.tensor,
    own_head: tl.tensor,
    own_line: tl.tensor,
    rows: tl.tensor,
    key_heads: tl.tensor,
    shared: tl.tensor,
    new: tl.tensor,
    own: tl.tensor,
    size: tl.tensor,
    scaling: tl.tensor,
    tiles: tl.tensor,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
    width: tl.constexpr,
    precision: tl.constexpr,
    by_head: tl.constexpr,
    strided: tl.constexpr,
) -> None:
    """As ``forward``; it also leaves ``delta``, every query's product of result and gradient, to ``backward_key``."""
    first_number, end_number, step = _numbers(tiles, strided)
    for number in range(first_number, end_number, step):
        row, line, key_head, batch = _queries(number, rows, key_heads, shared, block_q, by_head)
        there = row < rows
        q = _tile(query, line, there, size, size, width)
        g = _tile(grad, line, there, size, size, width)
        d = tl.sum(g.to(tl.float32) * _tile(result, line, there, size, size, width).to(tl.float32), 1)
        tl.store(delta + line, d, there)
        level = tl.load(log_sum + line, there, other=float("inf"))
        total = tl.zeros((block_q, width), tl.float32)
        k, v = _part(prompt_key, prompt_value, batch, key_head, prompt_batch, prompt_head)
        begin, end, first, stop = _of_prompt(row, prompt_length, batch)
        total = _pull(
            q, g, level, d, total, k, v, prompt_line, size, first, stop, begin, end, scaling, block_k, precision
        )
        k, v = _part(own_key, own_value, batch, key_head, own_batch, own_head)
        begin, end, first, stop = _of_response(row, rows, shared, new, own)
        total = _pull(q, g, level, d, total, k, v, own_line, size, first, stop, begin, end, scaling, block_k, precision)
        _store(grad_query, line, there, total * scaling, size, width)


@triton.jit
def _rows_that_see(
    first_key: tl.tensor,
    stop: tl.tensor,
    rows: tl.tensor,
    shared: tl.tensor,
    new: tl.tensor,
    own: tl.tensor,
    block_k: tl.constexpr,
    of_prompt: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """The first of the queries that see some of a tile of keys of one part, and the end of them."""
    if of_prompt:
        first_row, last_row = 0, tl.where(first_key < stop, rows, 0)
    else:
        ahead = tl.maximum(first_key % own - (own - new), 0)  # queries of the response that come before the first key
        first_row = (first_key // own * new + ahead) * shared
        last_row = ((tl.minimum(first_key + block_k, stop) - 1) // own + 1) * new * shared
    return first_row, last_row


@triton.jit
def _seen(
    place: tl.tensor,
    stop: tl.tensor,
    row: tl.tensor,
    shared: tl.tensor,
    new: tl.tensor,
    own: tl.tensor,
    of_prompt: tl.constexpr,
) -> tl.tensor:
    """[keys, rows or 1]: which of a tile of keys of one part a tile of queries sees."""
    if of_prompt:
        seen = (place < stop)[:, None]
    else:
        begin, end = _own_range(row, shared, new, own)
        seen = (place[:, None] >= begin[None, :]) & (place[:, None] < end[None, :])
    return seen


@triton.jit
def _push(
    v: tl.tensor,
    q: tl.tensor,
    grad: tl.tensor,
    delta: tl.tensor,
    weight: tl.tensor,
    total_key: tl.tensor,
    total_value: tl.tensor,
    precision: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Add what comes from a tile of queries to the gradients of a tile of keys (over ``scaling``) and of its values."""
    total_value = _dot(weight.to(grad.dtype), grad, total_value, precision)
    slope = weight * (_dot(v, tl.trans(grad), tl.zeros_like(weight), precision) - delta[None, :])
    return _dot(slope.to(q.dtype), q, total_key, precision), total_value


@triton.jit(do_not_specialize=["tiles"])
def backward_key(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    prompt_length: tl.tensor,
    log_sum: tl.tensor,
    grad: tl.tensor,
    delta: tl.tensor,
    grad_key: tl.tensor,
    grad_value: tl.tensor,
    key_batch: tl.tensor,
    key_head_stride: tl.tensor,
    key_line: tl.tensor,
    keys: tl.tensor,
    rows: tl.tensor,
    key_heads: tl.tensor,
    shared: tl.tensor,
    new: tl.tensor,
    own: tl.tensor,
    size: tl.tensor,
    scaling: tl.tensor,
    tiles: tl.tensor,
    of_prompt: tl.constexpr,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
    width: tl.constexpr,
    precision: tl.constexpr,
    by_head: tl.constexpr,
    strided: tl.constexpr,
) -> None:
    """A program owns tiles of a key head's keys, of one part, and walks over the queries that see some of them."""
    first_number, end_number, step = _numbers(tiles, strided)
    for number in range(first_number, end_number, step):
        first_key, key_head, batch = _owned(number, keys, key_heads, block_k)
        place = first_key + tl.arange(0, block_k)
        stop = tl.load(prompt_length + batch).to(tl.int32) if of_prompt else keys
        first_row, last_row = _rows_that_see(first_key, stop, rows, shared, new, own, block_k, of_prompt)
        key_start, value_start = _part(key, value, batch, key_head, key_batch, key_head_stride)
        k = _tile(key_start, place, place < stop, key_line, size, width)
        v = _tile(value_start, place, place < stop, key_line, size, width)
        total_key = tl.zeros((block_k, width), tl.float32)
        total_value = tl.zeros((block_k, width), tl.float32)
        for first in range(first_row, last_row, block_q):
            row = first + tl.arange(0, block_q)
            line = _line(row, batch, key_head, rows, key_heads, shared, by_head)
            q = _tile(query, line, row < rows, size, size, width)
            g = _tile(grad, line, row < rows, size, size, width)
            level = tl.load(log_sum + line, row < rows, other=float("inf"))
            d = tl.load(delta + line, row < rows, other=0.0)
            score = _dot(k, tl.trans(q), tl.zeros((block_k, block_q), tl.float32), precision) * (scaling * LOG2_E)
            seen = _seen(place, stop, row, shared, new, own, of_prompt)
            weight = tl.exp2(tl.where(seen, score - level[None, :], -float("inf")))
            total_key, total_value = _push(v, q, g, d, weight, total_key, total_value, precision)
        line = (batch * key_heads + key_head) * keys + place
        _store(grad_key, line, place < keys, total_key * scaling, size, width)
        _store(grad_value, line, place < keys, total_value, size, width)
