"""What a policy does on every engine, over hidden states and an output matrix that the engine knows how to compute.

Letters as in ``recrl.groups``; T tokens, S hidden states, H hidden size, V vocabulary, W beams or samples a prompt,
C candidate tokens.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from recrl.device.runtime import autocast
from recrl.groups.packed import PackedGroups
from recrl.groups.prompts import PromptBatch
from recrl.kernels.linear_logp.sizes import NO_GRADIENT, NO_GRADIENT_ROWS
from recrl.kernels.ops import Ops
from recrl.kernels.places import marked, runs
from recrl.kernels.shared_prefix_attention.rows import PrefixRows
from recrl.memory.head import MemoryHead
from recrl.memory.prior import NodePrior, node_prior
from recrl.models.shared_prefix import Continue, Extend, Layout, Packed, Prefill, ReadPrompts
from recrl.models.tensors import ReadTensor
from recrl.sids.trie import AllowedNodes, Trie

MEMORY = "memory"
"""Before the names of what a memory learns."""

Space = Literal["raw", "legal"]


class OutputHead(Protocol):
    """A decoder's output matrix, whole or in parts on several ranks; token ids are those of the whole vocabulary."""

    def logp(self, hidden: Tensor, token: Tensor, source: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As ``kernels.linear_logp``."""
        ...

    def legal_logp(
        self, hidden: Tensor, token: Tensor, legal: Tensor, exists: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As ``kernels.linear_logp.legal_logp``, of tokens that the trie knows."""
        ...

    def scores(self, hidden: Tensor, candidates: Tensor, space: Space) -> tuple[Tensor, Tensor | None]:
        """[S, H], [S, C] token ids that the trie knows -> [S, C] float32 logits, and [S] the logarithm of the whole
        vocabulary's sum of exponentials where the space asks for it. Without a gradient.
        """
        ...

    def logits(self, hidden: Tensor, candidates: Tensor) -> Tensor:
        """[B, W, H], [B, W, C] token ids -> [B, W, C] float32 logits."""
        ...


class DecoderPolicy(ABC):
    """See ``recrl.backends.policy.Policy``.

    Args:
        vocabulary: V, rows of the output matrix.
        kernels: implementations by the name of the op; the fastest for the others.
        memory: weighs on the legal responses of prompts that come with what is recalled for them. These are then
            normalised over the legal continuations, whatever ``space`` says.
    """

    model: Any
    config: PretrainedConfig
    output: OutputHead
    replicated = True
    """Every copy of the model holds all of what one copy holds: gradients have to be added up over them."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        trie: Trie,
        device: torch.device,
        vocabulary: int,
        *,
        dtype: str = "float32",
        token_budget: int = 32768,
        space: Space = "raw",
        kernels: Mapping[str, str] | None = None,
        memory: MemoryHead | None = None,
    ) -> None:
        self.ops = Ops.pick(device.type, kernels)
        self.tokenizer = tokenizer
        self.trie = trie.to(device)
        self.device = device
        self.dtype = dtype
        self.token_budget = token_budget
        self.space: Space = space
        self.kernels = dict(kernels or {})
        self.memory = None if memory is None else memory.requires_grad_(False).to(device)
        self.columns = self.trie.token.unique()  # the only tokens that can be legal at all
        self.column_of = torch.zeros(vocabulary, dtype=torch.long, device=device)
        self.column_of[self.columns] = torch.arange(len(self.columns), device=device)

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, trie: Trie, device: torch.device, **options: Any) -> Self:
        """A Hugging Face folder; ``options`` are the keywords of the constructor."""

    @classmethod
    @abstractmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        trie: Trie,
        device: torch.device,
        **options: Any,
    ) -> Self:
        """A model in memory."""

    @classmethod
    def load_grown(
        cls,
        folder: Path,  # noqa: ARG003
        tokenizer: PreTrainedTokenizerBase,  # noqa: ARG003
        seed: int,  # noqa: ARG003
        trie: Trie,  # noqa: ARG003
        device: torch.device,  # noqa: ARG003
        **options: Any,  # noqa: ARG003
    ) -> Self | None:
        """A folder whose vocabulary grows to the tokenizer's, read slice by slice; None where an engine loads whole
        models only.
        """
        return None

    @abstractmethod
    def hidden(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """[T] token ids and positions of one flat row -> [T, H], or [R, H] of the tokens that the layout reads."""

    @abstractmethod
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    @abstractmethod
    def finish_gradients(self) -> None: ...

    @abstractmethod
    def gradient_norm(self) -> Tensor: ...

    @abstractmethod
    def whole(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]: ...

    @abstractmethod
    def parts(self, read: ReadTensor) -> Iterator[tuple[str, Tensor]]: ...

    @abstractmethod
    def frozen_copy(self) -> Self: ...

    @abstractmethod
    def checkpoint_gradients(self) -> None: ...

    @abstractmethod
    def add_dropout(self, probability: float) -> None: ...

    @abstractmethod
    def save_pretrained(self, folder: Path) -> None: ...

    @property
    def options(self) -> dict[str, Any]:
        """The keywords that it was made with, for another of its kind that does not train."""
        return {
            "dtype": self.dtype,
            "token_budget": self.token_budget,
            "space": self.space,
            "kernels": self.kernels,
            "memory": copy.deepcopy(self.memory),
        }

    def train_memory(self) -> None:
        """From now on the memory's learned part is among the parameters; it is fixed until then."""
        if self.memory is not None:
            self.memory.requires_grad_(True)

    def gathered(self) -> AbstractContextManager[None]:
        """What needs no gradient is computed in here; all ranks have to enter and leave together."""
        return nullcontext()

    def parameters(self) -> Iterator[nn.Parameter]:
        for _, parameter in self.named_parameters():
            yield parameter

    @torch.no_grad()
    def fill(self, values: Iterable[tuple[str, Tensor]]) -> None:
        missing = dict(self.named_parameters())
        for name, value in values:
            parameter = missing.pop(name)
            assert parameter.shape == value.shape, f"{name}: {tuple(value.shape)} for {tuple(parameter.shape)}"
            parameter.copy_(value)
        assert not missing, f"not filled: {', '.join(missing)}"

    def causal_hidden(self, ids: Tensor, length: Tensor) -> Tensor:
        """[T] tokens of concatenated rows, and [B] their lengths -> [T, H]."""
        rows = PrefixRows.alone(length)
        return self.hidden(ids, rows.positions, Packed(rows, self.ops, reads_all=True))

    def token_logp(self, hidden: Tensor, token: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        """[T, H] states, [T] tokens and [T] trie nodes that they were chosen at -> [T] log-probabilities and entropies.

        Text is chosen at no node (-1): it has no legal continuations and is normalised over the whole vocabulary.
        """
        with autocast(self.device, self.dtype):
            if self.space == "raw":
                return self.output.logp(hidden, token)
            logp, entropy = hidden.new_zeros(2, len(token), dtype=torch.float32)
            for at_node, found in ((True, node >= 0), (False, node < 0)):
                index = found.nonzero().squeeze(1)
                if len(index):
                    states, chosen = hidden[index], token[index]
                    value, spread = (
                        self._legal_logp(states, chosen, node[index]) if at_node else self.output.logp(states, chosen)
                    )
                    logp, entropy = logp.index_copy(0, index, value), entropy.index_copy(0, index, spread)
            return logp, entropy

    def prior(self, prompts: PromptBatch) -> NodePrior | None:
        if self.memory is None or prompts.recalled is None:
            return None
        root = self.trie.root[prompts.start]
        return node_prior(self.trie, root, prompts.recalled, self.memory(prompts.recalled))

    def response_logp(
        self,
        hidden: Tensor,
        token: Tensor,
        node: Tensor,
        source: Tensor,
        allowed: AllowedNodes | None,
        prior: NodePrior | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Of tokens that were all chosen at nodes: [T] log-probabilities and entropies.

        Args:
            hidden: [S, H] states.
            source: [T] state that predicts each token.
            allowed: nodes that the legal continuations of each token lead to; None where any may follow.
            prior: what the memory adds to the logits of each token's legal continuations.
        """
        with autocast(self.device, self.dtype):
            if self.space == "raw" and prior is None:
                return self.output.logp(hidden, token, source)
            return self._legal_logp(hidden.index_select(0, source), token, node, allowed, prior)

    def _legal_logp(
        self,
        hidden: Tensor,
        token: Tensor,
        node: Tensor,
        allowed: AllowedNodes | None = None,
        prior: NodePrior | None = None,
    ) -> tuple[Tensor, Tensor]:
        edge, exists = self.trie.edges(node, max(self.trie.fanout), allowed)
        bias = None if prior is None else prior.steps(node, self.trie.child(edge))
        return self.output.legal_logp(hidden, token, self.trie.tokens(edge), exists, bias)

    def logp(self, batch: PackedGroups, read: ReadPrompts | None = None) -> tuple[Tensor, Tensor]:
        prompts, sizes, number = batch.prompts, batch.sizes, batch.distinct.number
        length = batch.fed.sum(1)
        count, width = batch.tokens.shape

        def places(width: int) -> Tensor:
            """[F] of the response-prefix tokens in an [N, width] table."""
            return runs(torch.arange(0, count * width, width, device=self.device), length, sum(sizes.rows.row))

        shared = number.flatten()[places(width - 1)] if width > 1 else None
        rows = PrefixRows(prompts.length, length, batch.prompt_of, shared, sizes.rows)
        own = batch.tokens.flatten()[places(width)[rows.first_use]]
        if read is None:
            ids = torch.cat([prompts.ids.flatten()[rows.prompts.index], own])
            states = self.hidden(ids, rows.positions, Packed(rows, self.ops))
        else:
            states = read.states
            if len(own):
                states = torch.cat([states, self.hidden(own, rows.own_positions, Continue(read, rows, self.ops))])
        # What predicts a response token: the prompt's last state for the first, the token before for the others.
        source = torch.cat([batch.prompt_of.unsqueeze(1), len(prompts) + number], 1).flatten()
        chosen = marked(batch.mask.flatten(), sum(sizes.chosen))
        prior = self.prior(prompts)
        allowed = prompts.allowed(self.trie) if self.space == "legal" or prior is not None else None
        of_row = batch.prompt_of[chosen // width]
        value, spread = self.response_logp(
            states,
            batch.tokens.flatten()[chosen],
            batch.nodes.flatten()[chosen],
            source[chosen],
            allowed and allowed.of(of_row),
            prior and prior.of(of_row),
        )
        nothing = value.new_zeros(batch.mask.numel())
        logp, entropy = (nothing.index_copy(0, chosen, found).view_as(batch.mask) for found in (value, spread))
        return logp, entropy

    def prefill(self, prompts: PromptBatch) -> tuple[Extend, Tensor]:
        layout = Prefill(PrefixRows.alone(prompts.length), self.ops)
        states = self.hidden(prompts.ids.flatten()[layout.rows.prompts.index], layout.rows.positions, layout)
        return Extend(layout), states.unsqueeze(1)

    def extend(self, state: Extend, parent: Tensor, token: Tensor, step: int) -> Tensor:
        state.follow(parent)
        positions = (state.prompt.rows.prompt_length + step).unsqueeze(1).expand_as(token)
        return self.hidden(token.flatten(), positions.flatten(), state).view(*token.shape, -1)

    @torch.no_grad()
    def candidate_logp(self, hidden: Tensor, candidates: Tensor, exists: Tensor, bias: Tensor | None = None) -> Tensor:
        missing = ~exists.flatten(0, 1)
        space = self.space if bias is None else "legal"
        with autocast(self.device, self.dtype):
            logits, normaliser = self.output.scores(hidden.flatten(0, 1), candidates.flatten(0, 1), space)
        if bias is not None:
            logits.add_(bias.flatten(0, 1))
        logits.masked_fill_(missing, float("-inf"))
        if normaliser is not None:
            return logits.sub_(normaliser.unsqueeze(-1)).view_as(candidates)
        # A leaf has no continuation: its total is -inf too, and -inf - -inf would be NaN.
        logp = logits.sub_(logits.logsumexp(-1, keepdim=True)).masked_fill_(missing, float("-inf"))
        return logp.view_as(candidates)

    def candidate_logits(self, hidden: Tensor, candidates: Tensor) -> Tensor:
        """[B, W, H] and [B, W, C] token ids -> [B, W, C] logits, normalised over nothing."""
        with autocast(self.device, self.dtype):
            return self.output.logits(hidden, candidates)


def chosen_logits(
    hidden: Tensor, weight: Tensor, chosen: Tensor, log_normaliser: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, Tensor | None]:
    """Logits of some columns, holding few of the others at once.

    Args:
        hidden: [S, H].
        weight: [V, H] output matrix.
        chosen: [S, C] rows of ``weight``.
        log_normaliser: as ``kernels.linear_logp`` has it; None where no normaliser is wanted.

    Returns:
        [S, C] float32, and [S] what ``log_normaliser`` makes of all V logits.
    """
    rows = max(NO_GRADIENT_ROWS, NO_GRADIENT // len(weight))
    picked, normalisers = [], []
    for states, index in zip(hidden.split(rows), chosen.split(rows), strict=True):
        logits = states @ weight.t()
        picked.append(logits.gather(-1, index).float())
        if log_normaliser is not None:
            normalisers.append(log_normaliser(logits))
        del logits  # before the next ones are computed, which then take its place in memory and in the cache
    return torch.cat(picked), torch.cat(normalisers) if log_normaliser is not None else None
