"""The tensors of one reinforcement-learning step, from prompts to packed active rows.

Letters: B prompts, G responses a prompt (its group), R tokens a response, I items of a slate (1 where a response names
one item), P tokens a prompt, L SID levels, S targets and C candidates a prompt, M rewards, N active rows. Everything is
padded on the right; item indices and codes are padded with -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from recrl.kernels.ops import Ops
from recrl.kernels.shared_prefix_attention.rows import RowSizes
from recrl.memory.recalled import Recalled
from recrl.sids.trie import AllowedNodes, Trie


@dataclass(frozen=True)
class Targets:
    """What would be right.

    Attributes:
        items: [B, S] item indices.
        codes: [B, S, L] SID codes of these items.
    """

    items: Tensor
    codes: Tensor


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one step.

    Attributes:
        ids: [B, P] token ids.
        length: [B].
        targets: of every prompt.
        history: [B, H] the items that the user took, oldest first, as many as the prompt may show.
        start: [B] trie node that responses go on from: a root, or behind the part of the target that is given.
        pool: [B, C] candidates that a prompt shows, and the only items that its responses may name; a row of -1 alone
            is the whole catalogue, and None is that for all prompts.
        recalled: what the memory knows of the prompts, None without one.
        sequence: [B] training sequence that a prompt was cut from, -1 where none was; None for others' histories.
    """

    ids: Tensor
    length: Tensor
    targets: Targets
    history: Tensor
    start: Tensor
    pool: Tensor | None = None
    recalled: Recalled | None = None
    sequence: Tensor | None = None

    def __len__(self) -> int:
        return len(self.length)

    @property
    def answerable(self) -> Tensor:
        """[B] bool: the first target is known, and a response may name it."""
        first = self.targets.items[:, :1]
        known = first[:, 0] >= 0
        return known if self.pool is None else known & ((self.pool == first).any(1) | (self.pool < 0).all(1))

    def eligible(self, items: int) -> Tensor | None:
        """[B, items] bool: a response may name the item; None where it may name any."""
        if self.pool is None:
            return None
        # The column behind the last takes the padding.
        named = self.pool.new_zeros(len(self), items + 1, dtype=torch.bool)
        named.scatter_(1, torch.where(self.pool >= 0, self.pool, items), True)
        return named[:, :items] | (self.pool < 0).all(1, keepdim=True)

    def allowed(self, trie: Trie) -> AllowedNodes | None:
        """The nodes that lead to each prompt's candidates; None where every node counts."""
        return None if self.pool is None else trie.allowed(self.pool, trie.root[self.start])

    def select(self, rows: Tensor) -> PromptBatch:
        """Some prompts, cut to the longest of them."""
        return self.cut(rows, int(self.length[rows].max()) if len(rows) else 0)

    def cut(self, rows: Tensor | slice, width: int) -> PromptBatch:
        """Some prompts, none of them longer than ``width``."""
        return PromptBatch(
            self.ids[rows, :width],
            self.length[rows],
            Targets(self.targets.items[rows], self.targets.codes[rows]),
            self.history[rows],
            self.start[rows],
            None if self.pool is None else self.pool[rows],
            None if self.recalled is None else self.recalled.select(rows),
            None if self.sequence is None else self.sequence[rows],
        )


@dataclass(frozen=True)
class RolloutGroups:
    """G legal responses to every prompt, best first where the rollout ranks them.

    Attributes:
        tokens: [B, G, R] token ids.
        mask: [B, G, R] bool, True where the policy chose the token freely (not given, not padding).
        nodes: [B, G, R] trie node that each token was chosen at.
        logp: [B, G, R] natural log-probability of each token under the rollout.
        items: [B, G, I] items that a response names, -1 where there is none.
        codes: [B, G, I, L] their SID codes.
        exists: [B, G] bool; a prompt with fewer legal responses than G has fewer.
        hard: [B] bool: no response that was made without help names a target.
    """

    prompts: PromptBatch
    tokens: Tensor
    mask: Tensor
    nodes: Tensor
    logp: Tensor
    items: Tensor
    codes: Tensor
    exists: Tensor
    hard: Tensor

    def select(self, rows: Tensor) -> RolloutGroups:
        """The groups of some prompts."""
        return RolloutGroups(
            self.prompts.select(rows),
            self.tokens[rows],
            self.mask[rows],
            self.nodes[rows],
            self.logp[rows],
            self.items[rows],
            self.codes[rows],
            self.exists[rows],
            self.hard[rows],
        )

    def responses(self, place: Tensor) -> RolloutGroups:
        """Of every group the responses at [B, G'] places, in that order; ``hard`` stays as it is."""
        row = torch.arange(len(place), device=place.device).unsqueeze(1)
        return replace(
            self,
            tokens=self.tokens[row, place],
            mask=self.mask[row, place],
            nodes=self.nodes[row, place],
            logp=self.logp[row, place],
            items=self.items[row, place],
            codes=self.codes[row, place],
            exists=self.exists[row, place],
        )

    @property
    def item_hits(self) -> Tensor:
        """[B, G, I] bool: the item is one of the prompt's targets."""
        named = (self.items.unsqueeze(-1) == self.prompts.targets.items[:, None, None]).any(-1)
        return named & self.exists.unsqueeze(-1) & (self.items >= 0)

    @property
    def hits(self) -> Tensor:
        """[B, G] bool: the response names one of the prompt's targets."""
        return self.item_hits.any(-1)

    @property
    def names(self) -> Tensor:
        """[B, G] bool: the response names an item at all."""
        return self.exists & (self.items >= 0).any(-1)


@dataclass(frozen=True)
class Signal:
    """What a signal makes of rewards.

    Attributes:
        groups: the responses, with repaired ones in place of those that they replace.
        advantage: [B, G] float32.
        active: [B, G] bool; only these rows go on.
        repaired: [B] bool.
        state: what the signal wants to see again at the next step; it goes into checkpoints.
    """

    groups: RolloutGroups
    advantage: Tensor
    active: Tensor
    repaired: Tensor
    state: Mapping[str, float] = field(default_factory=dict)


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
    """Fed tokens, each of which one state stands for.

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


def slate_entropy(items: Tensor, category: Tensor) -> Tensor:
    """Entropy of the categories of a slate's valid items, in nats (SAGE, papers.md A-4).

    An item that stands twice counts twice: that is homogeneity. NaN where no item is valid: a failure of format says
    nothing of diversity.

    Args:
        items: [..., I] item indices, -1 where there is none.
        category: [items] category number of every item.
    """
    valid = items >= 0
    kind = torch.where(valid, category[items.clamp(min=0)], -1)
    same = (kind.unsqueeze(-1) == kind.unsqueeze(-2)) & valid.unsqueeze(-1) & valid.unsqueeze(-2)
    share = same.sum(-1) / valid.sum(-1, keepdim=True)  # of an item's category; 0 / 0 is NaN where no item is valid
    log_share = torch.where(valid, share, 1.0).log()
    # -sum over categories of p ln p = -mean over items of ln p of the item's own category.
    return -log_share.sum(-1) / valid.sum(-1)
