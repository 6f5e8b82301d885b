"""Which token of a flat row belongs to which prompt or response."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recrl.kernels.places import Places


@dataclass(frozen=True)
class PrefixRows:
    """All prompts one behind the other, then the fed tokens of all responses one behind the other.

    Letters: B prompts, N responses, W responses of the largest group, K tokens of the longest response.

    Attributes:
        prompt_length: [B].
        row_length: [N] tokens of every response that are fed, which may be 0.
        prompt_of: [N] prompt of every response, ascending.
    """

    prompt_length: Tensor
    row_length: Tensor
    prompt_of: Tensor

    @classmethod
    def alone(cls, length: Tensor) -> PrefixRows:
        """[B] lengths of rows without responses."""
        nothing = length.new_zeros(0)
        return cls(length, nothing, nothing)

    @cached_property
    def prompts(self) -> Places:
        """[B, P] grid of the prompts' tokens."""
        return Places.of(self.prompt_length)

    @cached_property
    def first_row(self) -> Tensor:
        """[B + 1] first response of every prompt, and N."""
        edges = torch.arange(len(self.prompt_length) + 1, device=self.prompt_of.device)
        return torch.searchsorted(self.prompt_of.contiguous(), edges)

    @cached_property
    def responses(self) -> tuple[Places, int]:
        """[B, W * K] grid of the responses' tokens, and W."""
        count = len(self.prompt_length)
        if not len(self.prompt_of):
            return Places(count, 0, self.prompt_of), 0
        slot = torch.arange(len(self.prompt_of), device=self.prompt_of.device) - self.first_row[self.prompt_of]
        width, longest = int(slot.max()) + 1, int(self.row_length.max())
        grid = self.prompt_length.new_zeros(count, width, longest, dtype=torch.bool)
        place = torch.arange(longest, device=grid.device)
        grid[self.prompt_of, slot] = place < self.row_length[:, None]
        return Places.where(grid.flatten(1)), width

    @cached_property
    def positions(self) -> Tensor:
        """[T] position of every token in its own row; a response goes on where its prompt ends."""
        length = torch.cat([self.prompt_length, self.row_length])
        begin = length.cumsum(0) - length
        start = torch.cat([torch.zeros_like(self.prompt_length), self.prompt_length[self.prompt_of]])
        place = torch.arange(int(length.sum()), device=length.device)
        return place + (start - begin).repeat_interleave(length)
