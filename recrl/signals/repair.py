"""ReCast's repair: a group without a hit gets one, built from the ground truth (papers.md D-2, D-3 and D-10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recrl.groups.matches import common_levels, cosine, distinct, mean_over, nearness
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Options
from recrl.sids.trie import Trie
from recrl.signals.base import SignalContext


class RepairOptions(Options):
    struct_score: Literal["recast", "depth_fraction", "max_pair", "embed_cos"] = "recast"
    """How near a miss is to the targets: mean over its items of a tenth for every missing level, of the share of
    levels in common, the first of these for its best item alone, or the mean cosine of the items' text with that of
    the target nearest to it."""
    repair: Literal["always", "never", "linear", "threshold"] = "always"
    """Which groups without a hit are repaired: all, none, a share that falls as groups become trainable by themselves,
    or all until that share of groups is reached."""
    repair_until: float = Field(0.5, gt=0, le=1)
    """Share of groups with a hit of their own at which ``linear`` and ``threshold`` stop repairing."""
    repair_decay: float = Field(0.95, ge=0, lt=1)
    """Of the moving average of that share."""
    repair_hysteresis: float = Field(0.05, ge=0, lt=1)
    """``threshold`` stops this far above ``repair_until`` and starts again this far below."""


@dataclass(frozen=True)
class Repaired:
    """Groups in which some responses have been replaced by anchors.

    Attributes:
        reward: [B, G]; an anchor's is 1.
        score: [B, G] structural scores.
        usable: [B, G] bool: the responses that were, and anchors.
        repaired: [B] bool.
        share: probability with which a group without a hit was repaired.
        state: for the next step.
    """

    groups: RolloutGroups
    reward: Tensor
    score: Tensor
    usable: Tensor
    repaired: Tensor
    share: float
    state: dict[str, float]


def refuses_slates(options: RepairOptions, rollout: Any) -> str:
    """Why repair does not go with a rollout's options; empty where it does."""
    if rollout.slate_size > 1 and options.repair != "never":
        return (
            f"repair builds a response from one target, and rl.rollout.slate_size = {rollout.slate_size} asks for more "
            '(rl.signal.repair = "never" leaves repair out)'
        )
    return ""


def structural_score(groups: RolloutGroups, context: SignalContext, kind: str = "recast") -> Tensor:
    """[B, G] float32: how near a response is to the targets (papers.md D-2); it ranks inside a group."""
    if kind == "embed_cos":
        assert context.vectors is not None, "a run gives its items' vectors"
        return mean_over(distinct(groups), cosine(groups, context.vectors()))
    if kind == "depth_fraction":
        return mean_over(distinct(groups), common_levels(groups) / groups.codes.shape[-1])
    near = nearness(groups)
    if kind == "max_pair":
        return torch.where(distinct(groups), near, 0.0).amax(-1)
    return mean_over(distinct(groups), near)


def with_anchors(
    groups: RolloutGroups, reward: Tensor, usable: Tensor, options: RepairOptions, context: SignalContext
) -> Repaired:
    """Repair the groups without a hit that the options choose; a hit is a usable response with a reward above 0.

    Groups whose target is not known, or is none of the prompt's candidates, stay as they are.

    Args:
        reward: [B, G].
        usable: [B, G] bool: responses that may count as hit or miss.
    """
    score = structural_score(groups, context, options.struct_score)
    hits, misses = usable & (reward > 0), usable & (reward <= 0)
    trainable = hits.any(1) & misses.any(1)
    natural = float(trainable.sum()) / max(len(trainable), 1)  # of no groups at all none can be trained on
    share, state = repair_share(options, context.state, natural)
    draw = torch.rand(len(reward), generator=torch.Generator().manual_seed(context.seed)).to(reward.device)
    which = ~hits.any(1) & groups.prompts.answerable & groups.exists.any(1) & (draw < share)
    if bool(which.any()):
        groups = repair(groups, which, score, context.trie)
        anchors = groups.hits & which.unsqueeze(1)
        reward, score = torch.where(anchors, 1.0, reward), structural_score(groups, context, options.struct_score)
        usable = usable | anchors
    return Repaired(groups, reward, score, usable, which, share, state)


def repair_share(
    options: RepairOptions, state: Mapping[str, float], trainable: float
) -> tuple[float, dict[str, float]]:
    """The probability that a group without a hit is repaired, and the state for the next step (papers.md D-10).

    Args:
        trainable: share of this step's groups that have a hit and a miss of their own.
    """
    past = state.get("trainable", trainable)
    average = options.repair_decay * past + (1 - options.repair_decay) * trainable
    limit, margin = options.repair_until, options.repair_hysteresis
    on = state.get("repairing", 1.0) > 0
    on = average < limit + margin if on else average < limit - margin
    share = {
        "always": 1.0,
        "never": 0.0,
        "linear": min(1.0, max(0.0, (limit - average) / limit)),
        "threshold": float(on),
    }
    return share[options.repair], {"trainable": average, "repairing": float(on)}


def repair(groups: RolloutGroups, which: Tensor, score: Tensor, trie: Trie) -> RolloutGroups:
    """Put the first target in place of the response that is farthest from it; of equal ones the last.

    The anchor's rollout log-probability is set to 0: no rollout drew it, and the actor computes its own.

    Args:
        groups: as rolled out, one item a response.
        which: [B] bool; each must have a target and a response.
        score: [B, G] structural scores.
        trie: of item responses.
    """
    assert groups.items.shape[2] == 1, "a slate can't be repaired"
    rows = which.nonzero().squeeze(1)
    item, start = groups.prompts.targets.items[rows, 0], groups.prompts.start[rows]
    path, nodes = (_behind(table, trie.level[start]) for table in trie.paths(item, trie.root[start]))
    depth = max(path.shape[1], groups.tokens.shape[2])
    path, nodes = (F.pad(table, (0, depth - table.shape[1]), value=-1) for table in (path, nodes))
    tail = (0, depth - groups.tokens.shape[2])
    place = _farthest(score[rows], groups.exists[rows])

    def put(states: Tensor, value: Tensor | float | bool) -> Tensor:
        changed = states.clone()
        changed[rows, place] = torch.as_tensor(value, dtype=states.dtype, device=states.device)
        return changed

    return replace(
        groups,
        tokens=put(F.pad(groups.tokens, tail), path.clamp(min=0)),
        mask=put(F.pad(groups.mask, tail), path >= 0),
        nodes=put(F.pad(groups.nodes, tail), nodes.clamp(min=0)),
        logp=put(F.pad(groups.logp, tail), 0.0),
        items=put(groups.items, item.unsqueeze(-1)),
        codes=put(groups.codes, groups.prompts.targets.codes[rows, :1]),
    )


def _behind(table: Tensor, given: Tensor) -> Tensor:
    """[N, depth] without the first ``given`` [N] entries of every row, -1 at the end."""
    place = torch.arange(table.shape[1], device=table.device) + given.unsqueeze(1)
    found = table.gather(1, place.clamp(max=table.shape[1] - 1))
    return torch.where(place < table.shape[1], found, -1)


def _farthest(score: Tensor, exists: Tensor) -> Tensor:
    """[N] the last of the lowest scores among those that exist."""
    value = score.masked_fill(~exists, float("inf"))
    return score.shape[1] - 1 - value.flip(1).argmin(1)
