"""What a training step holds on one device, part by part.

The weights are float32, as are gradients and AdamW's two moments; products may run in bfloat16 (autocast), which then
keeps a bfloat16 copy of every matrix until the backward pass has used it. Activations are what autograd saves of each
op, counted from the ops' own files; ``tests/hardware/test_memory.py`` holds the sums against autograd's.

A tensor-parallel device holds its share of heads, of the MLP's width and of the vocabulary; hidden states and vectors
are whole on each. Letters: T tokens of a micro-batch, R of them whose last states are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from recrl.hardware.model_shapes import ModelShape
from recrl.kernels.linear_logp.sizes import CHUNK, KEPT, NO_GRADIENT, NO_GRADIENT_ROWS, PLAIN, WORKSPACE
from recrl.kernels.registry import KERNELS

FLOAT = 4
"""Bytes of a float32."""
ELEMENTWISE = ("rms_norm", "swiglu", "norm_rotary")
FEEDS = 5
"""Products that the normed states of a layer feed: queries, keys, values; gate, up. Autocast copies them for each."""

Parts = dict[str, int]
"""Bytes by part."""


@dataclass(frozen=True)
class Engine:
    """How a device computes.

    Attributes:
        device: its type, as torch names it.
        width: bytes of a number in a product: 4, or 2 with autocast to bfloat16.
        fused: norms, rotary positions and SwiGLU are one op each, which saves its input alone.
        flat: attention runs on the flat row; the padded form makes a further copy of its output.
    """

    device: Literal["cpu", "cuda", "npu"]
    width: int = FLOAT
    fused: bool = True
    flat: bool = True

    @classmethod
    def of(cls, device: Literal["cpu", "cuda", "npu"], dtype: str) -> Engine:
        """What the kernels' registry picks on a device, whether or not this machine has one."""
        fused = all(_first(op, device) != "reference" for op in ELEMENTWISE)
        flat = _first("shared_prefix_attention", device) == "native"
        return cls(device, 2 if dtype == "bfloat16" else FLOAT, fused, flat)


def _first(op: str, device: str) -> str:
    return next(kernel.name for kernel in KERNELS[op] if device in kernel.devices)


@dataclass(frozen=True)
class Share:
    """What of a model lies on one device.

    Attributes:
        tensor: devices that split every layer between them.
        data: copies of that, each with prompts of its own.
        sharded_optimizer: every copy keeps AdamW's moments of the parameters that it owns, whole matrices (ZeRO-1).
    """

    tensor: int = 1
    data: int = 1
    sharded_optimizer: bool = False

    def parameters(self, shape: ModelShape) -> int:
        """Parameters of one device."""
        matrices = shape.parameters - shape.vector_parameters
        return -(-matrices // self.tensor) + shape.vector_parameters

    def owned(self, shape: ModelShape) -> int:
        """Parameters whose moments the copy with most of them holds: an even part, or the largest matrix alone."""
        every = self.parameters(shape)
        if not self.sharded_optimizer:
            return every
        return min(every, max(-(-every // self.data), -(-shape.head_weights // self.tensor)))


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward and backward pass on one device.

    Attributes:
        tokens: T.
        read: R; equal to T where all last states are computed, as in SFT.
        scored: states that the head is computed for; R in RL.
        accumulates: an optimiser step has several micro-batches, so gradients lie beside a forward pass.
        known: prompt tokens that the rollout has read for it; their keys and values are copied to the responses'.
    """

    tokens: int
    read: int
    scored: int
    accumulates: bool
    known: int = 0


@dataclass(frozen=True)
class Rollout:
    """Prompts that one device rolls out at once.

    Attributes:
        prompts, prompt_tokens, group: of them.
        steps: tokens of a response that are fed.
    """

    prompts: int
    prompt_tokens: int
    group: int
    steps: int


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by moment and part.

    Attributes:
        moments: ``rollout``, ``backward`` (its start, when all activations are held), ``prompts`` (where it comes to
            prompts that the rollout has read), ``update`` (its end, when all gradients are).
    """

    moments: dict[str, Parts]

    @property
    def moment(self) -> str:
        """When most is held."""
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def parts(self) -> Parts:
        """Of that moment."""
        return self.moments[self.moment]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def step_memory(
    shape: ModelShape,
    engine: Engine,
    share: Share,
    micro: MicroBatch,
    *,
    rollout: Rollout | None = None,
    reference: bool = False,
) -> Memory:
    """Of a training step in its steady state: AdamW's moments exist from the first step on.

    Args:
        rollout: None in SFT.
        reference: a frozen copy of the weights is held.
    """
    held = state(shape, share, reference=reference)
    gradients = FLOAT * share.parameters(shape)
    matrix = FLOAT * -(-shape.head_weights // share.tensor)  # the head's or the embedding's gradient
    copies = engine.width * (share.parameters(shape) - shape.vector_parameters) if engine.width < FLOAT else 0
    moments = {
        "backward": held
        | {
            "autocast": copies,
            "gradients": (gradients if micro.accumulates else 0) + matrix,
            "activations": activations(shape, engine, share, micro),
            "logits": logits(shape, engine, share, micro),
            "workspace": workspace(shape, engine, share, micro),
        },
        # A tied matrix has two gradients, of the head and of the lookup, which are added up at the very end.
        "update": held | {"gradients": gradients, "workspace": matrix * (2 if shape.tied else 1)},
    }
    if micro.known:
        # The responses' backward pass has left all gradients, and those of the prompts' keys and values.
        prompts = replace(micro, tokens=micro.known, read=1)
        moments["prompts"] = held | {
            "gradients": gradients,
            "activations": activations(shape, engine, share, prompts),
            "workspace": workspace(shape, engine, share, prompts),
        }
    if rollout is not None:
        moments["rollout"] = held | rollout_parts(shape, engine, share, rollout)
    return Memory(moments)


def state(shape: ModelShape, share: Share, *, reference: bool) -> Parts:
    """What is held throughout."""
    count = share.parameters(shape)
    return {
        "weights": FLOAT * count,
        "reference": FLOAT * count if reference else 0,
        "optimizer": 2 * FLOAT * share.owned(shape),
    }


@dataclass(frozen=True)
class _Saved:
    """Bytes a token that autograd saves of a layer.

    Attributes:
        keys: of what every token computes: its state, the norm of it, keys and values.
        rest: queries, attention's output, the second norm and the MLP.
    """

    keys: int
    rest: int

    @classmethod
    def of(cls, shape: ModelShape, engine: Engine, share: Share) -> _Saved:
        width, narrow = engine.width, engine.width < FLOAT
        hidden = shape.hidden
        query, key = shape.query_width // share.tensor, shape.key_width // share.tensor
        inner = shape.intermediate // share.tensor
        # A norm's input and, in plain torch, its quotient. Its output is saved as the input of a product: once, or as
        # a copy in bfloat16 for each.
        norm = FLOAT * (1 if engine.fused else 2)
        normed = (width if narrow else 0, 0 if narrow else FLOAT)
        if engine.fused:
            turned, mlp = 2 * width, 3 * width
        else:
            # The op saves its float32 input and the quotient for the norm of the heads; without one, nothing.
            turned = width + (2 * FLOAT if shape.family == "qwen3" else 0)
            mlp = 3 * FLOAT + width
        attended = width * (1 if engine.flat else 2)
        return cls(
            keys=hidden * (norm + 2 * normed[0] + normed[1]) + key * (turned + width),
            rest=query * (turned + attended) + hidden * (norm + (FEEDS - 2) * normed[0] + normed[1]) + inner * mlp,
        )


def saved_per_token(shape: ModelShape, engine: Engine, share: Share) -> int:
    """Bytes a token that autograd saves of all layers, none of them cut; what a forward pass writes, about."""
    layer = _Saved.of(shape, engine, share)
    return shape.layers * (layer.keys + layer.rest)


def activations(shape: ModelShape, engine: Engine, share: Share, micro: MicroBatch) -> int:
    """Bytes that autograd holds when a backward pass begins."""
    layer = _Saved.of(shape, engine, share)
    whole = shape.layers - 1
    layers = whole * micro.tokens * (layer.keys + layer.rest) + micro.tokens * layer.keys + micro.read * layer.rest
    norm = (2 if engine.fused else 3) * FLOAT + (engine.width if engine.width < FLOAT else 0)
    angles = 2 * micro.tokens * shape.head_size * FLOAT
    copied = 2 * micro.known * shape.layers * (shape.key_width // share.tensor) * engine.width
    return layers + micro.read * shape.hidden * norm + angles + copied


def logits(shape: ModelShape, engine: Engine, share: Share, micro: MicroBatch) -> int:
    """Bytes of the logits that are held at once, which is never all of them where they are many."""
    every = micro.scored * -(-shape.vocabulary // share.tensor)
    if every <= PLAIN:
        return 3 * FLOAT * every
    if engine.device == "cpu":
        return engine.width * (min(every, CHUNK) + min(every, KEPT))
    return engine.width * min(every, WORKSPACE)


def workspace(shape: ModelShape, engine: Engine, share: Share, micro: MicroBatch) -> int:
    """Bytes that the backward pass of a layer takes beyond what it has saved: gradients of its widest states."""
    inner = shape.intermediate // share.tensor
    wide = inner * (3 * engine.width if engine.fused else 3 * FLOAT + engine.width)
    layer = _Saved.of(shape, engine, share)
    need = wide + 3 * FLOAT * shape.hidden
    if micro.read == micro.tokens:
        return micro.tokens * need
    # The last layer is small behind its keys; by the time that a whole layer's turn comes it has been given back.
    given_back = micro.tokens * layer.keys + micro.read * layer.rest
    return max(micro.read * need, micro.tokens * need - given_back)


def rollout_parts(shape: ModelShape, engine: Engine, share: Share, rollout: Rollout) -> Parts:
    """Keys and values, and what a forward pass without gradients holds of one layer."""
    key = 2 * engine.width * shape.layers * (shape.key_width // share.tensor)
    prompt = rollout.prompts * rollout.prompt_tokens * key
    # Beams that change parents are gathered into new memory while the old lies there.
    own = 2 * rollout.prompts * rollout.group * rollout.steps * key
    rows = max(NO_GRADIENT_ROWS, NO_GRADIENT // shape.vocabulary)
    scored = min(rollout.prompts * rollout.group, rows) * -(-shape.vocabulary // share.tensor)
    tokens = rollout.prompts * max(rollout.prompt_tokens, rollout.group)
    return {
        "cache": prompt + own,
        "logits": 2 * FLOAT * scored,
        "workspace": tokens
        * (
            3 * FLOAT * shape.hidden
            + (3 * engine.width if engine.fused else 4 * FLOAT) * shape.intermediate // share.tensor
        ),
    }
