"""Prompts that a rollout has read, kept for the update right behind it.

Where one optimiser step follows a rollout, the update would compute the very states of the prompts again, with the
same weights. With the graph of the rollout's prefill it computes the responses alone, and goes back through both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.backends.decoder_policy import DecoderPolicy
from recrl.groups.packed import PackedGroups
from recrl.groups.prompts import PromptBatch
from recrl.groups.rollout import Signal
from recrl.kernels.places import marked
from recrl.models.shared_prefix import Extend, ReadPrompts


class KeptPrompts:
    """Decodes as a policy does, and keeps what a rollout's only prefill has read."""

    def __init__(self, policy: DecoderPolicy) -> None:
        self._policy = policy
        self._reads = 0
        self._kept: tuple[PromptBatch, ReadPrompts] | None = None
        self.device = policy.device
        self.extend = policy.extend
        self.prior = policy.prior
        self.candidate_logp = policy.candidate_logp

    def prefill(self, prompts: PromptBatch) -> tuple[Extend, Tensor]:
        """As a policy's; the first one with a gradient, also where none is wanted around it.

        A rollout that reads a second time exchanges prompts: nothing is kept.
        """
        self._reads += 1
        if self._reads > 1:
            self._kept = None
            return self._policy.prefill(prompts)
        with torch.enable_grad():
            state, hidden = self._policy.prefill(prompts)
            self._kept = prompts, ReadPrompts(state.prompt, hidden.squeeze(1))
        return state, hidden.detach()

    def of(self, signal: Signal, batch: PackedGroups) -> ReadPrompts | None:
        """The active prompts, where to use them is less work than to compute them again; else None.

        The backward pass, twice a forward pass, goes through all prompts that were read; computed again, the active
        ones alone cost all three.
        """
        if self._kept is None:
            return None
        prompts, read = self._kept
        if prompts is not signal.groups.prompts or 3 * batch.prompt_tokens <= 2 * sum(read.prefill.rows.sizes.prompt):
            return None
        if len(batch.prompts) == len(prompts):
            return read
        return ReadPrompts(read.prefill, read.last, marked(signal.active.any(1), len(batch.prompts)))
