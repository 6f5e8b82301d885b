"""Softmax cross-entropy over a beam's list: each response is pushed down by what the policy gives it, and no more.

    w_i = softmax(log pi_i / temperature)      over the responses of a prompt
    A_i = w_i * (R_i / sum_j w_j R_j - 1)

This is the gradient of log sum_j w_j R_j by the log-probabilities, times the temperature: the log-likelihood of the
target where one response earns 1, as in ListNet's top-one loss (Cao et al., 2007). The responses of a beam are its best
ones and no sample, so the plain mean over them, which z-scores subtract, says nothing of the policy: it pushes a
response of probability 1e-6 down as hard as one of .3. A temperature above 1 suits a policy that is more certain than
it is right, as one with a strong memory: its order is kept, and what it is taught is not to flatten it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from recrl.groups.rollout import RolloutGroups, Signal
from recrl.parts import Options, Part
from recrl.signals.base import SignalContext, weighted_total

Temperature = Annotated[float, Field(gt=0)]


class ListwiseOptions(Options):
    temperature: Temperature | Literal["memory"] = "memory"
    """What the log-probabilities of the rollout are divided by before they are made weights; ``memory`` is
    ``memory.weight``, and 1 where that is less."""


def listwise(
    groups: RolloutGroups, rewards: Tensor, weights: Tensor, options: ListwiseOptions, context: SignalContext
) -> Signal:
    """The weighted sum of the rewards, those below 0 as 0; a group whose rewards are all equal says nothing."""
    total, scored = weighted_total(groups, rewards, weights)
    earned = torch.where(scored, total.clamp(min=0), 0.0)
    temperature = max(context.memory_weight, 1.0) if options.temperature == "memory" else options.temperature
    logits = (groups.logp * groups.mask).sum(-1) / temperature
    share = logits.masked_fill(~scored, float("-inf")).softmax(-1).masked_fill(~scored, 0.0)
    mean = (share * earned).sum(1, keepdim=True)
    advantage = torch.where(mean > 0, share * (earned / mean.clamp(min=1e-30) - 1), 0.0)
    level = torch.where(scored, earned, float("inf")).amin(1) == torch.where(scored, earned, 0.0).amax(1)
    active = scored & (mean > 0) & ~level.unsqueeze(1)
    return Signal(groups, torch.where(active, advantage, 0.0), active, torch.zeros_like(level), context.state)


LISTWISE = Part(ListwiseOptions, listwise, source="ListNet, Cao et al. 2007, on a beam")
