"""Active rows of a step, packed for the update.

Letters: B prompts, N active rows, R tokens of a response, K of those that a state is computed for. Rows are padded
on the right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import Signal
from recrl.kernels.ops import Ops
from recrl.kernels.shared_prefix_attention.rows import RowSizes


@dataclass(frozen=True)
class PackedSizes:
    """Sizes of ``PackedGroups`` in the host's memory, so that no micro-batch waits for the device.

    Attributes:
        rows: prompts' lengths, rows a prompt, rows' response-prefix tokens, and the prompts' distinct ones.
        chosen: [N] tokens of a row that the policy chose.
        seen: [B] tokens of their own rows that the prompts' distinct response-prefix tokens see together, themselves
            included.
    """

    rows: RowSizes
    chosen: list[int]
    seen: list[int]


@dataclass(frozen=True)
class Distinct:
    """Deduplicated response-prefix tokens.

    Attributes:
        number: [N, R - 1] of the distinct token, in the order of their first uses; no meaning where nothing is fed.
        first: [N, R - 1] bool: fed, and in no row before.
    """

    number: Tensor
    first: Tensor

    def part(self, rows: slice, before: int) -> Distinct:
        """Of some rows of whole prompts; ``before``: distinct tokens of the prompts before."""
        return Distinct(self.number[rows] - before, self.first[rows])


def distinct_tokens(tokens: Tensor, fed: Tensor, prompt_of: Tensor) -> Distinct:
    """Where rows of a prompt share a prefix; no host-device sync.

    Args:
        tokens: [N, K] ids, below 2^31.
        fed: [N, K] bool: the first ones of a row.
        prompt_of: [N].
    """
    rows = torch.arange(len(tokens), device=tokens.device)
    alike, firsts = prompt_of, []  # [N] rows that have been alike so far have one number
    for token in torch.where(fed, tokens, -1).unbind(1):
        key = alike * 2**32 + token
        ordered, order = key.sort(stable=True)
        fresh = torch.ones_like(ordered, dtype=torch.bool)
        fresh[1:] = ordered[1:] != ordered[:-1]
        alike = torch.empty_like(alike).scatter_(0, order, fresh.cumsum(0) - 1)
        # A stable sort leaves the first of equal rows in front.
        start = torch.where(fresh, rows, 0).cummax(0).values
        firsts.append(torch.empty_like(rows).scatter_(0, order, order[start]))
    first_row = torch.stack(firsts, 1) if firsts else tokens
    first = fed & (first_row == rows.unsqueeze(1))
    number = (first.flatten().cumsum(0) - 1).view_as(first)
    return Distinct(number.gather(0, first_row), first)


@dataclass(frozen=True)
class PackedGroups:
    """The active rows and their prompts, and nothing else.

    Attributes:
        prompts: the prompts that have an active row.
        prompt_of: [N] prompt of every row, ascending.
        slot: [N] place of a row among its prompt's rows.
        tokens, mask, nodes: [N, R], as in ``RolloutGroups``.
        advantage: [N].
        slate_size: [N] items that the row names.
        slate_entropy: [N] entropy of their categories in nats, NaN where it names none.
        logp_old, logp_ref: [N, R], or None where they were not computed.
    """

    prompts: PromptBatch
    prompt_of: Tensor
    slot: Tensor
    tokens: Tensor
    mask: Tensor
    nodes: Tensor
    advantage: Tensor
    slate_size: Tensor
    slate_entropy: Tensor
    logp_old: Tensor | None = None
    logp_ref: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_of)

    @property
    def width(self) -> int:
        """Rows of the largest group."""
        return int(self.slot.max()) + 1 if len(self) else 0

    @property
    def fed(self) -> Tensor:
        """[N, R - 1] bool: response tokens that something is predicted from, those before the last chosen one."""
        place = torch.arange(self.mask.shape[1], device=self.mask.device)
        last = torch.where(self.mask, place, 0).amax(1)
        return place[:-1] < last[:, None]

    @cached_property
    def distinct(self) -> Distinct:
        """Which response-prefix tokens are one: rows of a prompt that share a prefix have the same states there."""
        return distinct_tokens(self.tokens[:, :-1], self.fed, self.prompt_of)

    @cached_property
    def sizes(self) -> PackedSizes:
        """Fetched from the device once; micro-batches are given theirs."""

        def of_prompts(counts: Tensor) -> Tensor:
            return torch.zeros_like(self.prompts.length).scatter_add(0, self.prompt_of, counts)

        first = self.distinct.first
        seen = torch.where(first, torch.arange(1, first.shape[1] + 1, device=first.device), 0)
        of_rows = (torch.ones_like(self.prompt_of), first.sum(1), seen.sum(1))
        parts = (self.prompts.length, *map(of_prompts, of_rows), self.fed.sum(1), self.mask.sum(1))
        every = torch.cat(parts).tolist()
        ends = [*accumulate(len(part) for part in parts)]
        prompt, rows, own, own_seen, fed, chosen = (every[begin:end] for begin, end in pairwise([0, *ends]))
        return PackedSizes(RowSizes(prompt, rows, fed, own), chosen, own_seen)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts alone."""
        return sum(self.sizes.rows.prompt)

    @property
    def effective_tokens(self) -> int:
        """Tokens that a forward pass computes: every prompt once, and every distinct beginning of its active responses
        up to their last tokens.
        """
        return self.prompt_tokens + sum(self.sizes.rows.own)

    @property
    def pairs(self) -> int:
        """Query and key positions that meet in a forward pass: every token with itself and what it sees."""
        rows = self.sizes.rows
        own = sum(count * length for count, length in zip(rows.own, rows.prompt, strict=True)) + sum(self.sizes.seen)
        return own + self.prompt_pairs

    @property
    def prompt_pairs(self) -> int:
        """Of ``pairs``, those of prompt tokens as queries."""
        return sum(length * (length + 1) // 2 for length in self.sizes.rows.prompt)

    @property
    def states(self) -> int:
        """States that something is predicted from: every prompt's last, and those of response-prefix tokens."""
        return len(self.prompts) + sum(self.sizes.rows.own)

    @property
    def unread_pairs(self) -> int:
        """Of ``pairs``, those of prompt tokens before the last as queries."""
        return sum(length * (length - 1) // 2 for length in self.sizes.rows.prompt)

    def with_logps(self, old: Tensor | None, ref: Tensor | None) -> PackedGroups:
        return replace(self, logp_old=old, logp_ref=ref)

    def select(self, prompts: Tensor) -> PackedGroups:
        """The rows of some prompts, given as ascending prompt numbers."""
        if len(prompts) == len(self.prompts):
            return self  # all of them, with what is known of their sizes
        place = torch.full((len(self.prompts),), -1, device=prompts.device)
        place[prompts] = torch.arange(len(prompts), device=prompts.device)
        prompt_of = place[self.prompt_of]
        rows = (prompt_of >= 0).nonzero().squeeze(1)
        return self._rows(self.prompts.select(prompts), prompt_of[rows], rows)

    def _rows(self, prompts: PromptBatch, prompt_of: Tensor, rows: Tensor | slice) -> PackedGroups:
        """Some rows, of the prompts given."""
        return PackedGroups(
            prompts,
            prompt_of,
            self.slot[rows],
            self.tokens[rows],
            self.mask[rows],
            self.nodes[rows],
            self.advantage[rows],
            self.slate_size[rows],
            self.slate_entropy[rows],
            None if self.logp_old is None else self.logp_old[rows],
            None if self.logp_ref is None else self.logp_ref[rows],
        )

    def micro_batches(self, token_budget: int) -> list[PackedGroups]:
        """Parts of at most ``token_budget`` computed tokens, a prompt's rows together; at least one prompt each."""
        cuts = token_cuts(self.tokens_of_prompts, token_budget)
        return [self.part(begin, stop) for begin, stop in pairwise([0, *cuts])]

    @property
    def tokens_of_prompts(self) -> list[int]:
        """Computed tokens of every prompt with its rows."""
        rows = self.sizes.rows
        return [length + own for length, own in zip(rows.prompt, rows.own, strict=True)]

    def part(self, begin: int, stop: int) -> PackedGroups:
        """The rows of prompts that stand side by side."""
        sizes, prompts = self.sizes, self.prompts
        here = slice(begin, stop)
        first = sum(sizes.rows.group[:begin])
        rows = slice(first, first + sum(sizes.rows.group[here]))
        asked = prompts.cut(here, max(sizes.rows.prompt[here], default=0))
        part = self._rows(asked, self.prompt_of[rows] - begin, rows)
        own = sizes.rows.own[here]
        known = RowSizes(sizes.rows.prompt[here], sizes.rows.group[here], sizes.rows.row[rows], own)
        # What the properties would ask the device for, or compute again.
        vars(part)["sizes"] = PackedSizes(known, sizes.chosen[rows], sizes.seen[here])
        vars(part)["distinct"] = self.distinct.part(rows, sum(sizes.rows.own[:begin]))
        return part


def token_cuts(sizes: list[int], token_budget: int) -> list[int]:
    """Where to cut pieces of given sizes, kept in order, so that no part is larger than the budget unless it is one
    piece; the end of every part.
    """
    stops, total = [], 0
    for number, size in enumerate(sizes):
        if total and total + size > token_budget:
            stops.append(number)
            total = 0
        total += size
    return [*stops, len(sizes)] if sizes else []


def pack_active(signal: Signal, ops: Ops, entropy: Tensor | None = None) -> PackedGroups:
    """Gather the active rows and their prompts (ReCast's physical filtering); inactive rows are gone from here on.

    Args:
        entropy: [B, G] slate entropies of the signal's groups; NaN, not known, where none is given.
    """
    groups = signal.groups
    known = torch.full_like(signal.advantage, float("nan")) if entropy is None else entropy
    kept, prompt_of, slot, response = ops.pack_active(signal.active)
    prompt = kept[prompt_of]
    return PackedGroups(
        groups.prompts.select(kept),
        prompt_of,
        slot,
        groups.tokens[prompt, response],
        groups.mask[prompt, response],
        groups.nodes[prompt, response],
        signal.advantage[prompt, response],
        (groups.items[prompt, response] >= 0).sum(-1),
        known[prompt, response],
    )
