"""SINGER's SID-prefix curriculum: prompts that beams miss are asked again, with part of the answer (papers.md C-5).

    given tokens = min(floor((T - t) L / T), L - 1)      T rollouts in all, t done, L SID levels          (eq. 3 to 5)

A prompt is hard where no beam of a first rollout names a target. Its second rollout continues after the first tokens of
its first target's SID, which stand in the prompt: no loss falls on them. The share that is given falls to nothing over
the run. Prompts that ask for titles are never helped, nor are those whose target is not among their candidates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import RolloutGroups
from recrl.parts import Part
from recrl.rollout.base import RolloutContext, SingleItemOptions, join_groups
from recrl.rollout.beam import BeamOptions
from recrl.rollout.beam import rollout as beam_rollout
from recrl.sids.trie import ROOT, Trie


class CurriculumOptions(SingleItemOptions, BeamOptions):
    guide_cap: Literal["levels_minus_1", "none"] = "levels_minus_1"
    """How much of an answer may be given: all levels but one, or, as printed, the whole answer at first, which leaves
    one legal response and no contrast."""


def rollout(prompts: PromptBatch, options: CurriculumOptions, context: RolloutContext) -> RolloutGroups:
    """Beams; of hard prompts those after the given tokens. ``hard`` says which prompts they are."""
    first = beam_rollout(prompts, options, context)
    levels = context.codes.shape[1]
    given = guide_length(context.step, context.steps, levels, options.guide_cap)
    # Titles begin at another root, and behind tokens that are given already the target's first ones are out of place.
    can_give = (prompts.start == ROOT) & prompts.answerable
    rows = (first.hard & can_give).nonzero().squeeze(1)
    if given == 0 or not len(rows):
        return first
    again = beam_rollout(guided(prompts.select(rows), context.trie, given), options, context)
    again = replace(again, hard=torch.ones_like(again.hard))
    source = torch.arange(len(prompts), device=rows.device)
    source[rows] = len(prompts) + torch.arange(len(rows), device=rows.device)
    return join_groups([first, again]).select(source)


def guide_length(step: int, steps: int, levels: int, cap: str) -> int:
    """Tokens that are given after ``step`` of ``steps`` rollouts, in integers."""
    length = (steps - step) * levels // steps
    return min(length, levels - 1) if cap == "levels_minus_1" else length


def guided(prompts: PromptBatch, trie: Trie, given: int) -> PromptBatch:
    """Prompts with the first ``given`` tokens of their first target's SID behind them."""
    tokens, nodes = trie.paths(prompts.targets.items[:, 0])
    ids = F.pad(prompts.ids, (0, given))
    place = prompts.length.unsqueeze(1) + torch.arange(given, device=ids.device)
    return replace(
        prompts,
        ids=ids.scatter(1, place, tokens[:, :given]),
        length=prompts.length + given,
        start=_behind(nodes, trie, prompts.targets.items[:, 0], given),
    )


def _behind(nodes: Tensor, trie: Trie, item: Tensor, given: int) -> Tensor:
    """[B] node after the given tokens: where the next one is chosen, or the leaf where none is left."""
    if given < nodes.shape[1]:
        after = nodes[:, given]
        return torch.where(after >= 0, after, trie.leaf[ROOT, item])
    return trie.leaf[ROOT, item]


CURRICULUM = Part(CurriculumOptions, rollout, source="SINGER, eq. 3 to 5, papers.md C-5", needs="targets")
