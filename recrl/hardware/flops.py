"""FLOPs of a decoder: what the engine computes, and what verl would count for the same rows.

A multiplication with its addition is 2 FLOPs. A forward pass is then 2 FLOPs a weight and token that pass each other,
and 4 a pair of positions and attention channel (scores, and their weighted sum). Forward and backward are 3 passes.
Norms, activations, softmax and rotary positions are left out, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from recrl.hardware.model_shapes import ModelShape

TRAINING_PASSES = 3
"""Forward passes that a forward and a backward pass cost."""


@dataclass(frozen=True)
class Products:
    """What a forward pass multiplies by.

    Attributes:
        body: weights that every token passes. A lookup in the embedding is no product.
        head: weights of the output matrix.
        channels: query heads x head size of one layer.
        layers: that attend.
        unread: of ``body`` those that tokens do not pass whose last state is not read
            (``recrl.models.fused.weights_left_out``); 0 where the last layer computes all of them.
    """

    body: int
    head: int
    channels: int
    layers: int
    unread: int = 0

    @classmethod
    def of(cls, shape: ModelShape) -> Products:
        """Those of a model whose last layer leaves out what is not read."""
        return cls(shape.body_weights, shape.head_weights, shape.query_width, shape.layers, shape.unread_weights)

    @property
    def as_verl(self) -> Products:
        """As verl's ``flops_counter`` has them: every token passes all parameters, the embedding and the head too."""
        return Products(self.body + 2 * self.head, 0, self.channels, self.layers)


@dataclass(frozen=True)
class Work:
    """What a forward pass computes, over all of its rows.

    Attributes:
        tokens: real ones, not padding.
        pairs: query and key positions that meet.
        scored: states that the head is computed for.
        unread: tokens whose last state is not read.
        unread_pairs: of these as queries.
    """

    tokens: int
    pairs: int
    scored: int
    unread: int = 0
    unread_pairs: int = 0

    def times(self, count: int) -> Work:
        """The same work ``count`` times over."""
        return Work(
            self.tokens * count, self.pairs * count, self.scored * count, self.unread * count, self.unread_pairs * count
        )


def forward_flops(products: Products, work: Work) -> int:
    """FLOPs of one forward pass."""
    dense = 2 * work.tokens * products.body + 2 * work.scored * products.head
    attention = 4 * work.pairs * products.layers * products.channels
    if not products.unread:
        return dense + attention
    return dense + attention - 2 * work.unread * products.unread - 4 * work.unread_pairs * products.channels


def shared_prompt(prompt: int, rows: int, fed: int) -> Work:
    """A prompt computed once with its responses behind it: a rollout, a log-probability, or a third of an update.

    At most: responses with a common prefix share tokens, and how many do depends on the model.

    Args:
        prompt: its tokens.
        rows: responses.
        fed: tokens of each that something is predicted from: one less than a response has.
    """
    own = fed * prompt + fed * (fed + 1) // 2
    return Work(
        tokens=prompt + rows * fed,
        pairs=prompt * (prompt + 1) // 2 + rows * own,
        scored=1 + rows * fed,
        unread=prompt - 1,
        unread_pairs=prompt * (prompt - 1) // 2,
    )


def verl_training_flops(
    shape: ModelShape,
    lengths: Iterable[float],
    *,
    attention: Literal["causal", "square"] = "causal",
    lookup: bool = False,
) -> float:
    """FLOPs of an update as verl's ``flops_counter`` has them: 6 a parameter and token, and attention.

    Every row is a whole sequence with its own copy of the prompt, and the head is computed at all positions.

    Args:
        lengths: tokens of every row.
        attention: ``causal`` is 6 a pair of the square and channel, as in later versions; ``square`` 12, as in earlier
            ones.
        lookup: count the embedding as a product, as verl does.
    """
    rows = list(lengths)
    weights = shape.body_weights + shape.head_weights * (2 if lookup else 1)
    factor = 6 if attention == "causal" else 12
    pairs = sum(length * length for length in rows)
    return 6 * weights * sum(rows) + factor * pairs * shape.query_width * shape.layers
