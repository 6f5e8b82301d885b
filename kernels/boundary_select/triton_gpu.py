"""The strongest positive and the hardest negative of every group in one kernel; ``reference.py`` is the specification.

Torch needs some thirty launches for what is a single pass over the group: every lane keeps the first response, in the
order of preference, of those that it has met, and the lanes are compared at the end. No two responses are equal in that
order, so neither the number of lanes nor the order in which they meet changes the result.

Letters: B groups, G responses.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recrl.kernels.launches import Launch


@triton.jit
def _above(left: tl.tensor, right: tl.tensor) -> tl.tensor:
    """NaN is above everything, as in ``torch.amax``."""
    return (left > right) | ((left != left) & (right == right))


@triton.jit
def _level(left: tl.tensor, right: tl.tensor) -> tl.tensor:
    return (left == right) | ((left != left) & (right != right))


@triton.jit
def _first_of(
    reward: tl.tensor,
    score: tl.tensor,
    logp: tl.tensor,
    index: tl.tensor,
    other_reward: tl.tensor,
    other_score: tl.tensor,
    other_logp: tl.tensor,
    other_index: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The one of two responses that comes first, the former where they are level; an index of -1 is no response."""
    worse = _above(other_score, score) | (_level(score, other_score) & _above(other_logp, logp))
    worse = _above(other_reward, reward) | (_level(reward, other_reward) & worse)
    swap = (other_index >= 0) & ((index < 0) | worse)
    return (
        tl.where(swap, other_reward, reward),
        tl.where(swap, other_score, score),
        tl.where(swap, other_logp, logp),
        tl.where(swap, other_index, index),
    )


@triton.jit
def _largest(key: tl.tensor, left: tl.tensor) -> tl.tensor:
    """Those that are left with the largest key; none if it is NaN, as NaN equals no key."""
    best = tl.max(tl.where(left, key, -float("inf")), 0)
    unknown = tl.max((left & (key != key)).to(tl.int32), 0)
    return left & (key == best) & (unknown == 0)


@triton.jit
def _best_of(reward: tl.tensor, score: tl.tensor, logp: tl.tensor, index: tl.tensor) -> tl.tensor:
    """Index of the first among all lanes, or -1."""
    left = _largest(logp, _largest(score, _largest(reward, index >= 0)))
    lowest = tl.min(tl.where(left, index, 2147483647), 0)
    return tl.where(lowest < 2147483647, lowest, -1).to(tl.int64)


@triton.jit
def _select(
    reward: tl.tensor,
    score: tl.tensor,
    logp: tl.tensor,
    valid: tl.tensor,
    positive: tl.tensor,
    negative: tl.tensor,
    group: tl.tensor,
    lanes: tl.constexpr,
) -> None:
    """A program owns a group."""
    number = tl.program_id(0)
    begin = number.to(tl.int64) * group
    lane = tl.arange(0, lanes)
    none = tl.zeros((lanes,), tl.int32) - 1
    zero = tl.zeros((lanes,), reward.dtype.element_ty)
    hit_reward, hit_score, hit_logp, hit = zero, zero, zero, none
    miss_reward, miss_score, miss_logp, miss = zero, zero, zero, none
    for first in range(0, group, lanes):
        place = first + lane
        there = place < group
        there = tl.load(valid + begin + place, mask=there, other=0) != 0
        reward_here = tl.load(reward + begin + place, mask=there, other=0.0)
        score_here = tl.load(score + begin + place, mask=there, other=0.0)
        logp_here = tl.load(logp + begin + place, mask=there, other=0.0)
        right = tl.where(there & (reward_here > 0), place, -1)
        hit_reward, hit_score, hit_logp, hit = _first_of(
            hit_reward, hit_score, hit_logp, hit, reward_here, score_here, logp_here, right
        )
        wrong = tl.where(there & (reward_here == 0), place, -1)
        miss_reward, miss_score, miss_logp, miss = _first_of(
            miss_reward, miss_score, miss_logp, miss, reward_here, score_here, logp_here, wrong
        )
    tl.store(positive + number, _best_of(hit_reward, hit_score, hit_logp, hit))
    tl.store(negative + number, _best_of(miss_reward, miss_score, miss_logp, miss))


def _launch(dtype: str) -> Launch:
    keys = dict.fromkeys(("reward", "score", "logp"), f"*{dtype}")
    signature = {**keys, "valid": "*i1", "positive": "*i64", "negative": "*i64", "group": "i32"}
    return Launch(f"boundary_select {dtype}", _select, signature, {"lanes": 32}, num_warps=1, num_stages=1)


_SELECT = {torch.float32: _launch("fp32"), torch.float64: _launch("fp64")}
LAUNCHES = tuple(_SELECT.values())


def boundary_select(reward: Tensor, score: Tensor, logp: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """As ``reference.boundary_select``: [B, G] rewards, scores, log-probabilities and validity -> two [B] indices."""
    positive, negative = (reward.new_empty(len(reward), dtype=torch.int64) for _ in range(2))
    if len(reward):
        keys = (reward, score, logp)
        # float32 holds every narrower type, so no tie is lost or made.
        dtype = torch.float64 if torch.float64 in {key.dtype for key in keys} else torch.float32
        values = (key.to(dtype).contiguous() for key in keys)
        _SELECT[dtype].run((len(reward),), *values, valid.contiguous(), positive, negative, reward.shape[1])
    return positive, negative
