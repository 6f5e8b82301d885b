"""Which token of a flat row belongs to which prompt or response."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from recrl.kernels.places import Places, runs


@dataclass(frozen=True)
class RowSizes:
    """The lengths of ``PrefixRows`` in the host's memory, so that there is no host-device sync.

    Attributes:
        prompt: [B] tokens of every prompt.
        group: [B] responses of every prompt.
        row: [N] response-prefix tokens of every response.
        own: [B] tokens of the flat row that hold them.
    """

    prompt: list[int]
    group: list[int]
    row: list[int]
    own: list[int]


@dataclass(frozen=True)
class PrefixRows:
    """All prompts concatenated, then the response-prefix tokens of all responses.

    Responses of a prompt that share a prefix have one state for it, so that one token of the flat row may
    hold a token of each of them: it stands where the first of them has it.

    Letters: T tokens of the flat row, B prompts, N responses, W responses of the largest group, K tokens of the longest
    response, F response-prefix tokens of all responses, U tokens of the flat row that hold them.

    Attributes:
        prompt_length: [B].
        row_length: [N] tokens of every response that are input, which may be 0.
        prompt_of: [N] prompt of every response, ascending.
        shared: [F] which of the U tokens holds each response-prefix token, row by row; in the order of their first
            uses, so that those of a prompt stand side by side. None where every one has a token of its own.
        known: the lengths in the host's memory; without them they are fetched from the device.
    """

    prompt_length: Tensor
    row_length: Tensor
    prompt_of: Tensor
    shared: Tensor | None = None
    known: RowSizes | None = None

    @classmethod
    def alone(cls, length: Tensor) -> PrefixRows:
        """[B] lengths of rows without responses."""
        nothing = length.new_zeros(0)
        return cls(length, nothing, nothing)

    @cached_property
    def sizes(self) -> RowSizes:
        """The lengths in the host's memory."""
        if self.known is not None:
            return self.known
        group = self.first_row.diff()
        parts = (self.prompt_length, group, self.row_length)
        every = torch.cat(parts if self.shared is None else (*parts, self.shared)).tolist()
        ends = [*accumulate(len(part) for part in parts)]
        prompt, responses, row = (every[begin:end] for begin, end in pairwise([0, *ends]))
        held = every[ends[-1] :] if self.shared is not None else range(sum(row))
        fed = [0, *accumulate(row)]
        rows = [0, *accumulate(responses)]
        own = [len(set(held[fed[begin] : fed[end]])) for begin, end in pairwise(rows)]
        return RowSizes(prompt, responses, row, own)

    @cached_property
    def prompts(self) -> Places:
        """[B, P] grid of the prompts' tokens."""
        return Places.of(self.prompt_length, self.sizes.prompt)

    @cached_property
    def own(self) -> Tensor:
        """[F] ``shared``, or as many numbers."""
        fed = sum(self.sizes.row)
        return torch.arange(fed, device=self.prompt_length.device) if self.shared is None else self.shared

    @cached_property
    def first_use(self) -> Tensor:
        """[U] the first response-prefix token that each of the responses' tokens holds."""
        if self.shared is None:
            return self.own
        fed = torch.arange(len(self.shared), device=self.shared.device)
        return fed.new_full((sum(self.sizes.own),), len(fed)).scatter_reduce(0, self.shared, fed, "amin")

    @cached_property
    def count(self) -> int:
        """T."""
        return sum(self.sizes.prompt) + sum(self.sizes.own)

    @cached_property
    def read(self) -> Tensor:
        """[R] ascending: the tokens that something is predicted from, every prompt's last and all of the responses.

        Prompts have at least one token.
        """
        last = self.prompt_length.cumsum(0) - 1
        own = torch.arange(self.prompts.count, self.count, device=last.device)
        return torch.cat([last, own])

    @cached_property
    def first_row(self) -> Tensor:
        """[B + 1] first response of every prompt, and N."""
        edges = torch.arange(len(self.prompt_length) + 1, device=self.prompt_of.device)
        return torch.searchsorted(self.prompt_of.contiguous(), edges)

    @cached_property
    def responses(self) -> tuple[Places, int]:
        """[B, W * K] grid of the F response-prefix tokens, and W."""
        count = len(self.prompt_length)
        if not len(self.prompt_of):
            return Places(count, 0, self.prompt_of), 0
        slot = torch.arange(len(self.prompt_of), device=self.prompt_of.device) - self.first_row[self.prompt_of]
        width, longest = max(self.sizes.group), max(self.sizes.row)
        start = (self.prompt_of * width + slot) * longest
        return Places(count, width * longest, runs(start, self.row_length, sum(self.sizes.row))), width

    @cached_property
    def positions(self) -> Tensor:
        """[T] position of every token in its own row; a response goes on where its prompt ends."""
        prompt = runs(torch.zeros_like(self.prompt_length), self.prompt_length, self.prompts.count)
        return torch.cat([prompt, self.own_positions])

    @cached_property
    def own_positions(self) -> Tensor:
        """[U] those of the responses' tokens."""
        fed = runs(self.prompt_length[self.prompt_of], self.row_length, sum(self.sizes.row))
        return fed if self.shared is None else fed[self.first_use]
