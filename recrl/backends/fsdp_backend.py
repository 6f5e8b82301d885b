"""A Hugging Face decoder whose weights are shared out over the copies of a run: torch's FSDP2 (``fully_shard``).

Every process keeps a part of each weight, of its gradient and of its moments. An update gathers a layer when it comes
to it and lets it go behind it; what needs no gradient (rollout, old and reference log-probabilities, validation)
gathers the whole model once, since ranks differ there in the passes that they make.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from recrl.backends.ranks import local
from recrl.backends.torch_backend import TransformersPolicy
from recrl.models.folder import FolderWriter
from recrl.models.shared_prefix import Layout
from recrl.models.tensors import ReadTensor
from recrl.sids.trie import Trie


class _Root(nn.Module):
    """Whatever reads weights runs as this module's forward, so that FSDP has gathered them."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Tensor]) -> Tensor:
        return work()


class FsdpPolicy(TransformersPolicy):
    """See ``recrl.backends.policy.Policy``. In a backward pass all ranks have to take part."""

    replicated = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        trie: Trie,
        device: torch.device,
        **options: Any,
    ) -> None:
        super().__init__(model, tokenizer, trie, device, **options)
        self._ranks = distributed.get_world_size()
        self._rank = distributed.get_rank()
        self._root: Any = _Root(self.model)
        for layer in self.model.base_model.layers:
            fully_shard(layer)
        fully_shard(self._root)
        for module in self._modules():
            module.set_gradient_divide_factor(1.0)  # losses are divided by the tokens of all ranks already
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum

    def _modules(self) -> list[FSDPModule]:
        return [module for module in self._root.modules() if isinstance(module, FSDPModule)]

    def hidden(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        states: Tensor = self._root(lambda: super(FsdpPolicy, self).hidden(ids, positions, layout))
        return states

    @contextmanager
    def gathered(self) -> Iterator[None]:
        modules = self._modules()
        for module in modules:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module in modules:
                module.reshard()
                module.set_reshard_after_forward(module is not self._root, recurse=False)

    def gradient_norm(self) -> Tensor:
        squares = torch.zeros((), device=self.device)
        for weight in self.parameters():
            if weight.grad is not None:
                squares += local(weight.grad).float().square().sum()
        distributed.all_reduce(squares)
        return squares.sqrt()

    def whole(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors.items():
            yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def parts(self, read: ReadTensor) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self.named_parameters():
            rows = ceil(len(weight) / self._ranks)  # as torch.chunk cuts, which FSDP follows
            begin = min(self._rank * rows, len(weight))
            yield name, read(name)[begin : begin + rows]

    def frozen_copy(self) -> Self:
        model = AutoModelForCausalLM.from_config(copy.deepcopy(self.config), dtype=torch.float32)
        twin = type(self)(
            model.eval().requires_grad_(False),
            self.tokenizer,
            self.trie,
            self.device,
            **self.options,
        )
        with torch.no_grad():
            for ours, theirs in zip(self.parameters(), twin.parameters(), strict=True):
                local(theirs).copy_(local(ours))
        return twin

    def save_pretrained(self, folder: Path) -> None:
        """Rank 0 writes; it holds the tensors of one file."""
        named = dict(self.named_parameters())
        tensors = self.whole({name: weight.detach() for name, weight in named.items()})
        if self._rank:
            for _ in tensors:  # they are gathered from here
                pass
            return
        FolderWriter(folder, ((name, tuple(weight.shape)) for name, weight in named.items())).write(tensors)
        self.config.save_pretrained(folder)
        if self.model.generation_config is not None:
            self.model.generation_config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
