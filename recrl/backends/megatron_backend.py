"""A decoder over several ranks, built with Megatron-core, as a policy.

``recrl.backends.megatron.parallel.start`` comes first: it says which ranks hold a model together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

import torch
from megatron.core import parallel_state
from torch import Tensor, distributed, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from recrl.backends.decoder_policy import DecoderPolicy, Space
from recrl.backends.megatron.head import ShardedHead
from recrl.backends.megatron.model import build, last_states, rotary_angles
from recrl.backends.megatron.shape import DecoderShape
from recrl.backends.megatron.weights import QK_NORMS, WeightMap
from recrl.device.runtime import autocast
from recrl.errors import UserError
from recrl.kernels.registry import pick
from recrl.memory.head import MemoryHead
from recrl.models.checkpoint import read_folder
from recrl.models.folder import FolderReader, FolderWriter, grown
from recrl.models.shared_prefix import Layout
from recrl.models.tensors import ReadTensor
from recrl.sids.trie import Trie

GENERATION = "generation_config.json"


class MegatronPolicy(DecoderPolicy):
    """See ``recrl.backends.policy.Policy``. All ranks of a model have to be given the same work.

    Args:
        config: of the Hugging Face model; the weights are not filled in.
        generation: what a saved folder says of generation.

    Raises:
        UserError: a model that is not built here, or that the ranks can't divide.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        tokenizer: PreTrainedTokenizerBase,
        trie: Trie,
        device: torch.device,
        *,
        dtype: str = "float32",
        token_budget: int = 32768,
        space: Space = "raw",
        kernels: Mapping[str, str] | None = None,
        memory: MemoryHead | None = None,
        generation: GenerationConfig | None = None,
    ) -> None:
        self.config = config
        self.generation = generation
        self.group = parallel_state.get_tensor_model_parallel_group()
        self.rank = parallel_state.get_tensor_model_parallel_rank()
        self.ranks = parallel_state.get_tensor_model_parallel_world_size()
        self.shape = DecoderShape.of(config)
        self.shape.check(self.ranks)
        self.weights = WeightMap(self.shape, self.ranks)
        norm = pick("rms_norm", device.type, (kernels or {}).get("rms_norm", "auto"))
        self.model = build(self.shape, self.ranks, norm.rms_norm).to(device)
        self.checkpointed = False
        super().__init__(
            tokenizer,
            trie,
            device,
            self.shape.vocabulary,
            dtype=dtype,
            token_budget=token_budget,
            space=space,
            kernels=kernels,
            memory=memory,
        )
        first = self.rank * self.shape.vocabulary_share(self.ranks)
        self.output = ShardedHead(lambda: self.head, first, self.ops, self.columns, self.shape.vocabulary)

    @classmethod
    def load(cls, folder: Path, trie: Trie, device: torch.device, **options: Any) -> Self:
        """This rank's part of a Hugging Face folder, read slice by slice.

        Args:
            options: as the constructor's.

        Raises:
            UserError: the folder lacks something; see also the constructor.
        """
        config, tokenizer = read_folder(folder)
        policy = cls(config, tokenizer, trie, device, generation=_generation(folder), **options)
        policy.fill(policy.parts(FolderReader(folder)))
        return policy

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        trie: Trie,
        device: torch.device,
        **options: Any,
    ) -> Self:
        """This rank's part of a model in memory."""
        tensors = model.state_dict()
        policy = cls(model.config, tokenizer, trie, device, generation=model.generation_config, **options)
        policy.fill(policy.parts(tensors.__getitem__))
        return policy

    @classmethod
    def load_grown(
        cls,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        trie: Trie,
        device: torch.device,
        **options: Any,
    ) -> Self:
        config, _ = read_folder(folder)
        read: ReadTensor = FolderReader(folder)
        rows = config.vocab_size
        if rows < len(tokenizer):
            config.vocab_size = len(tokenizer)
            matrices = ["model.embed_tokens.weight"] + ([] if config.tie_word_embeddings else ["lm_head.weight"])
            read = grown(read, matrices, rows, len(tokenizer), seed)
        policy = cls(config, tokenizer, trie, device, generation=_generation(folder), **options)
        policy.fill(policy.parts(read))
        return policy

    @property
    def head(self) -> Tensor:
        """[V', H] this rank's rows of the output matrix, without those that fill the vocabulary up."""
        layer = self.model.embedding.word_embeddings if self.shape.tied else self.model.output_layer
        rows: Tensor = layer.weight
        return rows[: self.shape.vocabulary - self.rank * len(rows)]

    def hidden(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        angles = rotary_angles(self.shape, positions)
        with autocast(self.device, self.dtype):
            return last_states(self.model, ids, angles, layout, checkpointed=self.checkpointed)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.model.named_parameters()

    def finish_gradients(self) -> None:
        """Norms of queries and keys see a rank's own heads alone; all else has its whole gradient everywhere."""
        partial = [
            parameter.grad
            for name, parameter in self.named_parameters()
            if name.endswith(QK_NORMS) and parameter.grad is not None
        ]
        if partial:
            together = torch.cat(partial)
            distributed.all_reduce(together, group=self.group)
            for gradient, total in zip(partial, together.split([len(part) for part in partial]), strict=True):
                gradient.copy_(total)

    def gradient_norm(self) -> Tensor:
        squares = torch.zeros(2, device=self.device)  # of what ranks share out, and of what each holds all of
        for name, parameter in self.named_parameters():
            if parameter.grad is not None:
                squares[0 if self.weights.is_sharded(name) else 1] += parameter.grad.float().square().sum()
        distributed.all_reduce(squares[:1], group=self.group)
        return squares.sum().sqrt()

    def whole(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name in self.weights.names:
            if name in tensors:
                yield from self.weights.join(name, self._shards(name, tensors[name].detach()))

    def _shards(self, name: str, local: Tensor) -> list[Tensor]:
        """Every rank's part of a tensor; this one's where all are the same."""
        if not self.weights.is_sharded(name):
            return [local]
        shards = [torch.empty_like(local) for _ in range(self.ranks)]
        distributed.all_gather(shards, local.contiguous(), group=self.group)
        return shards

    def parts(self, read: ReadTensor) -> Iterator[tuple[str, Tensor]]:
        for name in self.weights.names:
            yield name, self.weights.cut(name, self.rank, read)

    def frozen_copy(self) -> Self:
        policy = type(self)(
            self.config,
            self.tokenizer,
            self.trie,
            self.device,
            **self.options,
            generation=self.generation,
        )
        policy.fill(self.named_parameters())
        policy.model.requires_grad_(False)
        return policy

    def checkpoint_gradients(self) -> None:
        self.checkpointed = True

    def add_dropout(self, probability: float) -> None:
        if probability > 0:
            raise UserError(
                f"model.dropout = {probability} with backend.engine = 'megatron'",
                why="activations are not dropped there",
                fix="train SFT with another engine and RL with this one, or set model.dropout = 0",
            )

    def save_pretrained(self, folder: Path) -> None:
        """Rank 0 of all writes; it holds the tensors of one file."""
        local = dict(self.named_parameters())
        tensors = self.whole(local)
        if distributed.get_rank():
            for _ in tensors:  # they are gathered from here
                pass
            return
        shapes = (
            shape for name in self.weights.names for shape in self.weights.whole_shapes(name, tuple(local[name].shape))
        )
        FolderWriter(folder, shapes).write(tensors)
        config = deepcopy(self.config)
        config.dtype = torch.float32
        config.save_pretrained(folder)
        if self.generation is not None:
            self.generation.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _generation(folder: Path) -> GenerationConfig | None:
    """What a folder says of generation, if it says anything."""
    return GenerationConfig.from_pretrained(folder) if (folder / GENERATION).is_file() else None
