"""The strongest positive and the hardest negative of every group: the definition of the op in plain torch.

Letters: B groups, G responses.
"""

from __future__ import annotations

import torch
from torch import Tensor


def boundary_select(reward: Tensor, score: Tensor, logp: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """ReCast's boundary pair, with ties broken the same way on every device (papers.md D-4).

    A positive is a valid response with a reward above 0, a negative a valid one with a reward of 0. Of the positives
    the one with the largest reward is taken, of the negatives the one with the largest structural score; ties go to the
    larger score, then to the larger log-probability, then to the lower index.

    Args:
        reward: [B, G] float.
        score: [B, G] float, how near a response is to the truth.
        logp: [B, G] float, log-probability of the whole response in the rollout.
        valid: [B, G] bool, False where there is no response or it names nothing.

    Returns:
        [B] index of the positive and [B] of the negative (int64); -1 where a group has none.
    """
    positive, negative = valid & (reward > 0), valid & (reward == 0)
    return _first_of(positive, reward, score, logp), _first_of(negative, score, logp)


def _first_of(among: Tensor, *keys: Tensor) -> Tensor:
    """[B] index of the lexicographic maximum of the keys among some, the lowest of equal ones; -1 where none is."""
    left = among
    for key in keys:
        best = key.masked_fill(~left, float("-inf")).amax(1, keepdim=True)
        left = left & (key == best)
    index = left.to(torch.uint8).argmax(1)
    return torch.where(left.any(1), index, -1)
