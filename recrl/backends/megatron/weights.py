"""Where a rank's parameters stand in the tensors of a Hugging Face folder.

A parameter of a rank is made of blocks, one below the other: of query, key and value those of its key heads in turn, of
gate and up its share of both. Names on the left are Megatron-core's, in the blocks Hugging Face's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recrl.backends.megatron.shape import DecoderShape
from recrl.models.tensors import ReadTensor

LAYER = "decoder.layers.{}."
QK_NORMS = ("q_layernorm.weight", "k_layernorm.weight")


@dataclass(frozen=True)
class Block:
    """``begin`` to ``end`` along ``dim`` of a whole tensor, all of it along the other."""

    name: str
    begin: int
    end: int
    dim: int = 0

    @property
    def size(self) -> int:
        return self.end - self.begin

    @property
    def place(self) -> slice | tuple[slice, slice]:
        """Where the block stands in the whole tensor."""
        along = slice(self.begin, self.end)
        return along if self.dim == 0 else (slice(None), along)


Blocks = tuple[Block, ...]


class WeightMap:
    """Every parameter's blocks on every one of W ranks."""

    def __init__(self, shape: DecoderShape, ranks: int) -> None:
        self._blocks = {name: tuple(on) for name, on in _blocks(shape, ranks)}

    @property
    def names(self) -> list[str]:
        """Parameters by their local names, in an order that all ranks share."""
        return list(self._blocks)

    def is_sharded(self, name: str) -> bool:
        """Whether ranks hold different parts; of the others each holds all."""
        return len(set(self._blocks[name])) > 1

    def whole_shapes(self, name: str, local: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of what ``join`` gives for parameters of a shape."""
        on = self._blocks[name]
        for tensor in dict.fromkeys(block.name for block in on[0]):
            blocks = [block for rank in on for block in rank if block.name == tensor]
            end = max(block.end for block in blocks)
            yield tensor, (end, *local[1:]) if blocks[0].dim == 0 else (local[0], end)

    def cut(self, name: str, rank: int, read: ReadTensor) -> Tensor:
        """A rank's parameter out of the whole tensors."""
        first, own = self._blocks[name][0], self._blocks[name][rank]
        parts = [read(block.name)[block.place] for block in own]
        if own[0].dim == 0:
            # All ranks have as many rows as the first: the last ones' share of the vocabulary is filled up.
            missing = sum(block.size for block in first) - sum(block.size for block in own)
            parts += [parts[0].new_zeros(missing, *parts[0].shape[1:])] if missing else []
        return torch.cat(parts)

    def join(self, name: str, shards: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Whole tensors under Hugging Face names, out of all ranks' parts (of one where all are the same)."""
        wholes = {
            tensor: shards[0].new_empty(shape) for tensor, shape in self.whole_shapes(name, tuple(shards[0].shape))
        }
        for blocks, shard in zip(self._blocks[name], shards, strict=False):
            if blocks[0].dim == 1:
                wholes[blocks[0].name][blocks[0].place] = shard
                continue
            row = 0
            for block in blocks:
                wholes[block.name][block.place] = shard[row : row + block.size]
                row += block.size
        yield from wholes.items()


def _blocks(shape: DecoderShape, ranks: int) -> Iterator[tuple[str, list[Blocks]]]:
    yield "embedding.word_embeddings.weight", _vocabulary("model.embed_tokens.weight", shape, ranks)
    for number in range(shape.layers):
        layer = LAYER.format(number)
        for name, on in _layer(f"model.layers.{number}.", shape, ranks):
            yield layer + name, on
    yield "decoder.final_layernorm.weight", _same("model.norm.weight", shape.hidden_size, ranks)
    if not shape.tied:
        yield "output_layer.weight", _vocabulary("lm_head.weight", shape, ranks)


def _layer(theirs: str, shape: DecoderShape, ranks: int) -> Iterator[tuple[str, list[Blocks]]]:
    attention, mlp = theirs + "self_attn.", theirs + "mlp."
    yield "input_layernorm.weight", _same(theirs + "input_layernorm.weight", shape.hidden_size, ranks)
    yield (
        "self_attention.linear_proj.weight",
        _columns(attention + "o_proj.weight", shape.heads * shape.head_size, ranks),
    )
    yield "self_attention.linear_qkv.weight", _query_key_value(attention, "weight", shape, ranks)
    if shape.qkv_bias:
        yield "self_attention.linear_qkv.bias", _query_key_value(attention, "bias", shape, ranks)
    if shape.qk_norm:
        for ours, name in zip(QK_NORMS, ("q_norm.weight", "k_norm.weight"), strict=True):
            yield f"self_attention.{ours}", _same(attention + name, shape.head_size, ranks)
    yield "pre_mlp_layernorm.weight", _same(theirs + "post_attention_layernorm.weight", shape.hidden_size, ranks)
    share = shape.intermediate_size // ranks
    gate_up = [
        tuple(Block(f"{mlp}{name}_proj.weight", rank * share, (rank + 1) * share) for name in ("gate", "up"))
        for rank in range(ranks)
    ]
    yield "mlp.linear_fc1.weight", gate_up
    yield "mlp.linear_fc2.weight", _columns(mlp + "down_proj.weight", shape.intermediate_size, ranks)


def _same(name: str, size: int, ranks: int) -> list[Blocks]:
    return [(Block(name, 0, size),)] * ranks


def _columns(name: str, size: int, ranks: int) -> list[Blocks]:
    share = size // ranks
    return [(Block(name, rank * share, (rank + 1) * share, dim=1),) for rank in range(ranks)]


def _vocabulary(name: str, shape: DecoderShape, ranks: int) -> list[Blocks]:
    share = shape.vocabulary_share(ranks)
    return [(Block(name, rank * share, min((rank + 1) * share, shape.vocabulary)),) for rank in range(ranks)]


def _query_key_value(attention: str, kind: str, shape: DecoderShape, ranks: int) -> list[Blocks]:
    """Of every key head in turn its query heads, itself and its value head."""
    heads = {"q": shape.heads // shape.key_heads * shape.head_size, "k": shape.head_size, "v": shape.head_size}
    share = shape.key_heads // ranks
    return [
        tuple(
            Block(f"{attention}{name}_proj.{kind}", head * rows, (head + 1) * rows)
            for head in range(rank * share, (rank + 1) * share)
            for name, rows in heads.items()
        )
        for rank in range(ranks)
    ]
