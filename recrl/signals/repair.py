"""ReCast's repair: a group without a hit gets one, built from the ground truth (METHODS D-2, D-3 and D-10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recrl.components import Options
from recrl.groups import RolloutGroups
from recrl.sids.trie import Trie


class RepairOptions(Options):
    repair: Literal["always", "never", "linear", "threshold"] = "always"
    """Which groups without a hit are repaired: all, none, a share that falls as groups become trainable by themselves,
    or all until that share of groups is reached."""
    repair_until: float = Field(0.5, gt=0, le=1)
    """Share of groups with a hit of their own at which ``linear`` and ``threshold`` stop repairing."""
    repair_decay: float = Field(0.95, ge=0, lt=1)
    """Of the moving average of that share."""
    repair_hysteresis: float = Field(0.05, ge=0, lt=1)
    """``threshold`` stops this far above ``repair_until`` and starts again this far below."""


def structural_score(groups: RolloutGroups) -> Tensor:
    """[B, G] float32: 1 where a response's SID is a target's, a tenth for every level that is missing at the end, 0
    without a common first code; of a slate the mean over its items (METHODS D-2). Ranks inside a group, is no reward.
    """
    own, asked = groups.codes.unsqueeze(3), groups.prompts.targets.codes[:, None, None]
    levels = own.shape[-1]
    common = ((own == asked) & (own >= 0)).to(torch.int64).cumprod(-1).sum(-1)  # [B, G, I, S]
    nearness = torch.where(common > 0, 10.0 ** (common - levels).float(), 0.0)
    named = groups.items >= 0
    mean = torch.where(named, nearness.amax(-1), 0.0).sum(-1) / named.sum(-1).clamp(min=1)
    return torch.where(groups.exists, mean, 0.0)


def repair_share(
    options: RepairOptions, state: Mapping[str, float], trainable: float
) -> tuple[float, dict[str, float]]:
    """The probability that a group without a hit is repaired, and the state for the next step (METHODS D-10).

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
        groups: as rolled out.
        which: [B] bool; each must have a target and a response.
        score: [B, G] structural scores.
        trie: of item responses.
    """
    rows = which.nonzero().squeeze(1)
    if not len(rows):
        return groups
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
