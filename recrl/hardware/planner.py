"""Which split of a model over devices fits, and what a step costs in it, before any device is booked.

Every legal split is tried: tensor parallel x data parallel x prompts of a micro-batch. Memory is ``memory.py``'s, FLOPs
are ``flops.py``'s. A phase takes the time of its products, at an assumed share of the device's peak, of what passes the
device's memory, and of what passes between devices; nothing overlaps.

Letters: B prompts of a step, G responses of each, A of them active, F tokens of a response that are fed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recrl.errors import UserError
from recrl.hardware import flops
from recrl.hardware.memory import FLOAT, Engine, Memory, MicroBatch, Rollout, Share, saved_per_token, step_memory
from recrl.hardware.model_shapes import ModelShape
from recrl.hardware.profiles import Profile

if TYPE_CHECKING:
    from recrl.hardware.step_load import StepLoad

GIB = 2**30
OPTIMIZER_TRAFFIC = 32
"""Bytes a parameter that clipping and AdamW move: the gradient twice, weight and both moments in and out."""
SYNCS = 2
"""All-reduces of the hidden states that a split layer needs in a forward pass, and again in a backward pass."""


@dataclass(frozen=True)
class Assumptions:
    """What no data sheet says.

    Attributes:
        efficiency: share of the peak that products reach.
        usable: share of a device's memory that tensors may take; the rest is the driver's, the communication's and the
            allocator's.
        sharded_optimizer: AdamW's moments are split over data-parallel copies (ZeRO-1), as the engine does.
    """

    efficiency: float = 0.4
    usable: float = 0.9
    sharded_optimizer: bool = True


@dataclass(frozen=True)
class Job:
    """One RL step.

    Attributes:
        response_tokens: of a response; all but its last are fed.
        dtype: of products, as in ``backend.dtype``.
    """

    shape: ModelShape
    load: StepLoad
    prompt_tokens: int
    response_tokens: int
    dtype: str = "bfloat16"

    @property
    def fed(self) -> int:
        """F."""
        return self.response_tokens - 1

    @property
    def per_prompt(self) -> flops.Work:
        """A forward pass over a prompt and its active responses."""
        return flops.shared_prompt(self.prompt_tokens, self.load.active, self.fed)

    @property
    def rolled_out(self) -> flops.Work:
        """A forward pass over a prompt and all of its responses."""
        return flops.shared_prompt(self.prompt_tokens, self.load.group, self.fed)

    @property
    def actor_tokens(self) -> int:
        """Tokens that an update computes."""
        return self.load.prompts * self.load.epochs * self.per_prompt.tokens

    @property
    def rollout_tokens(self) -> int:
        """Tokens that a rollout computes."""
        return self.load.prompts * self.rolled_out.tokens


@dataclass(frozen=True)
class Phase:
    """One phase of a step.

    Attributes:
        flops: over all devices, without anything computed twice.
        products_s, memory_s, network_s: seconds on the device that has most to do.
    """

    flops: float
    products_s: float
    memory_s: float
    network_s: float

    @property
    def seconds(self) -> float:
        return self.products_s + self.memory_s + self.network_s


@dataclass(frozen=True)
class Layout:
    """One way to run the job, judged.

    Attributes:
        share: tensor and data parallel.
        micro_prompts: prompts of a micro-batch.
        token_budget: the value for ``backend.token_budget``.
        phases: ``rollout``, ``old_log_prob``, ``reference``, ``update``, as far as the recipe has them.
        mfu: of the update: its FLOPs over its seconds and the peak of all devices.
        why_not: empty where it fits.
    """

    share: Share
    micro_prompts: int
    token_budget: int
    memory: Memory
    phases: dict[str, Phase]
    mfu: float
    why_not: str

    @property
    def fits(self) -> bool:
        return not self.why_not

    @property
    def seconds(self) -> float:
        """Of the step."""
        return sum(phase.seconds for phase in self.phases.values())


@dataclass(frozen=True)
class Plan:
    """Every legal layout of a job.

    Attributes:
        layouts: best first: those that fit, by seconds; then the others, by memory.
        excluded: degree of tensor parallelism -> why it can't be.
    """

    job: Job
    profile: Profile
    assumptions: Assumptions
    layouts: list[Layout]
    excluded: dict[int, str]


def tensor_degrees(shape: ModelShape, profile: Profile) -> tuple[list[int], dict[int, str]]:
    """The degrees of tensor parallelism that are legal, and why others are not.

    A degree divides the devices of a node, since its all-reduces are too many for the network, and it divides query
    heads, key heads and the MLP's width, since every device computes whole heads and as many columns as the others. The
    vocabulary need not divide: the last devices' shares are filled up, as long as each has tokens of its own.
    """
    legal, excluded = [], {}
    for degree in (degree for degree in range(1, profile.devices + 1) if profile.devices % degree == 0):
        sizes = {
            "the devices of a node": profile.devices_per_node,
            "the query heads": shape.heads,
            "the key heads": shape.key_heads,
            "the MLP's width": shape.intermediate,
        }
        wrong = [f"{what} ({size:,})" for what, size in sizes.items() if size % degree]
        if wrong:
            excluded[degree] = f"does not divide {', '.join(wrong)}"
        elif shape.vocabulary <= (degree - 1) * math.ceil(shape.vocabulary / degree):
            excluded[degree] = f"leaves a device without any of {shape.vocabulary:,} tokens"
        else:
            legal.append(degree)
    return legal, excluded


def plan(job: Job, profile: Profile, assumptions: Assumptions | None = None) -> Plan:
    """Judge every legal layout.

    Args:
        profile: with figures; of a machine that is measured where it stands, what was measured
            (``recrl.hardware.detect.with_figures``).

    Raises:
        UserError: a size that can't be.
    """
    given = assumptions or Assumptions()
    _check(job, given)
    degrees, excluded = tensor_degrees(job.shape, profile)
    layouts = [
        judge(job, profile, given, Share(degree, profile.devices // degree, given.sharded_optimizer), prompts)
        for degree in degrees
        for prompts in micro_batches(job, profile.devices // degree)
    ]
    layouts.sort(key=lambda layout: (not layout.fits, layout.seconds if layout.fits else layout.memory.total))
    return Plan(job, profile, given, layouts, excluded)


def _check(job: Job, given: Assumptions) -> None:
    for name, size, least in (("prompt", job.prompt_tokens, 1), ("response", job.response_tokens, 1)):
        if size < least:
            raise UserError(f"{name} tokens = {size}", why=f"a {name} has at least {least}", fix="give more")
    for name, share in (("efficiency", given.efficiency), ("usable", given.usable)):
        if not 0 < share <= 1:
            raise UserError(f"{name} = {share}", why="it is a share", fix="give a number above 0 and up to 1")


def micro_batches(job: Job, copies: int) -> list[int]:
    """Prompts of a micro-batch that are worth a look: 1, 2, 4 ... and all of an optimiser step."""
    most = _of_one(job, copies, job.load.mini_batches)
    return sorted({min(most, 2**power) for power in range(most.bit_length() + 1)})


def _of_one(job: Job, copies: int, parts: int = 1) -> int:
    """Prompts of a rollout's ``parts``-th part that the copy with most of them has."""
    return math.ceil(math.ceil(job.load.prompts / parts) / copies)


def judge(job: Job, profile: Profile, given: Assumptions, share: Share, micro_prompts: int) -> Layout:
    """Memory, time and verdict of one layout."""
    work, engine = job.per_prompt, Engine.of(profile.device, job.dtype)
    budget = micro_prompts * work.tokens
    of_step = _of_one(job, share.data, job.load.mini_batches)
    at_once = min(_of_one(job, share.data), max(1, budget // (job.prompt_tokens + job.load.group)))
    scored, accumulates = micro_prompts * work.scored, micro_prompts < of_step
    # An update goes on from its rollout's prompts, see ``recrl.training.rl.Rl.keeps_prompts``.
    goes_on = share.data == 1 and not accumulates and job.load.optimizer_steps == 1 and job.dtype == "float32"
    known = micro_prompts * job.prompt_tokens if goes_on else 0
    memory = step_memory(
        job.shape,
        engine,
        share,
        MicroBatch(budget, scored, scored, accumulates, known),
        rollout=Rollout(at_once, job.prompt_tokens, job.load.group, job.fed),
        reference=job.load.reference,
    )
    times = _Times(job, profile, given, share, engine)
    phases = times.phases(micro_prompts, at_once)
    update = phases["update"]
    mfu = update.flops / (update.seconds * profile.devices * times.peak)
    return Layout(share, micro_prompts, budget, memory, phases, mfu, _why_not(memory, profile, given))


def _why_not(memory: Memory, profile: Profile, given: Assumptions) -> str:
    assert profile.memory_gib is not None
    usable = profile.memory_gib * given.usable
    if memory.total <= usable * GIB:
        return ""
    largest = max(memory.parts, key=lambda part: memory.parts[part])
    return (
        f"needs {memory.total / GIB:.1f} GiB in {memory.moment}, {memory.parts[largest] / GIB:.1f} of it {largest}; "
        f"{usable:.1f} of {profile.memory_gib:g} are usable"
    )


@dataclass(frozen=True)
class _Times:
    """Seconds of the phases in one layout."""

    job: Job
    profile: Profile
    given: Assumptions
    share: Share
    engine: Engine

    @property
    def peak(self) -> float:
        """FLOP/s of a device."""
        tflops = self.profile.bf16_tflops if self.job.dtype == "bfloat16" else self.profile.fp32_tflops
        assert tflops is not None
        return tflops * 1e12

    def phases(self, micro_prompts: int, at_once: int) -> dict[str, Phase]:
        """All phases that the recipe has."""
        job, load = self.job, self.job.load
        of_copy = _of_one(job, self.share.data)
        of_step = _of_one(job, self.share.data, load.mini_batches)
        found = {"rollout": self.rollout(of_copy, at_once)}
        log_prob = self.phase(job.per_prompt, load.prompts, of_copy, math.ceil(of_copy / micro_prompts))
        if load.old_log_prob:
            found["old_log_prob"] = log_prob
        if load.reference:
            found["reference"] = log_prob
        found["update"] = self.update(of_step, math.ceil(of_step / micro_prompts))
        return found

    def phase(self, work: flops.Work, prompts: int, of_copy: int, forwards: int, passes: int = 1) -> Phase:
        """A phase of ``passes`` over ``prompts`` prompts.

        Args:
            work: of one prompt.
            of_copy: prompts of the copy with most of them.
            forwards: passes over the weights that these take.
        """
        one = passes * flops.forward_flops(flops.Products.of(self.job.shape), work)
        states = passes * of_copy * work.tokens * saved_per_token(self.job.shape, self.engine, self.share)
        return Phase(
            flops=float(prompts * one),
            products_s=of_copy * one / self.share.tensor / (self.peak * self.given.efficiency),
            memory_s=self._memory_s(passes * forwards * self._weights() + 2 * states),
            network_s=self._syncs_s(of_copy * work.tokens, min(passes, 2)),
        )

    def rollout(self, of_copy: int, at_once: int) -> Phase:
        """Prompts once, then a token of every response at a time: each such step reads the weights and all keys."""
        job = self.job
        parts = math.ceil(of_copy / at_once)
        steps = self.phase(job.rolled_out, job.load.prompts, of_copy, parts * (1 + job.fed))
        keys = 2 * self.engine.width * job.shape.layers * job.shape.key_width // self.share.tensor
        read = self._memory_s(of_copy * job.prompt_tokens * job.fed * keys)
        return Phase(steps.flops, steps.products_s, steps.memory_s + read, steps.network_s)

    def update(self, of_step: int, micros: int) -> Phase:
        """All optimiser steps on a rollout, with the log-probabilities that some losses want before each."""
        load, count = self.job.load, self.share.parameters(self.job.shape)
        extra = load.log_probs_a_step
        steps = load.optimizer_steps
        each = self.phase(self.job.per_prompt, load.prompts, of_step, micros, flops.TRAINING_PASSES)
        optimizer = self._memory_s(OPTIMIZER_TRAFFIC * self.share.owned(self.job.shape))
        gradients = self._gradients_s(FLOAT * count)
        again = extra / flops.TRAINING_PASSES
        return Phase(
            flops=load.epochs * each.flops,
            products_s=steps * each.products_s * (1 + again),
            memory_s=steps * (each.memory_s * (1 + again) + optimizer),
            network_s=steps * (each.network_s * (1 + extra / 2) + gradients),
        )

    def _weights(self) -> float:
        """Bytes that a pass over the weights moves: autocast reads them, writes its copy and reads that."""
        return self.share.parameters(self.job.shape) * (
            FLOAT + 2 * self.engine.width if self.engine.width < FLOAT else FLOAT
        )

    def _memory_s(self, num_bytes: float) -> float:
        assert self.profile.memory_bandwidth_gbps is not None
        return num_bytes / (self.profile.memory_bandwidth_gbps * 1e9)

    def _syncs_s(self, tokens: int, directions: int) -> float:
        """All-reduces of hidden states between the devices that split a layer."""
        degree = self.share.tensor
        if degree == 1:
            return 0.0
        assert self.profile.intra_node_gbps is not None
        states = tokens * self.job.shape.hidden * self.engine.width
        sent = directions * SYNCS * self.job.shape.layers * _ring(degree) * states
        return sent / (self.profile.intra_node_gbps * 1e9)

    def _gradients_s(self, num_bytes: float) -> float:
        """The gradients' all-reduce between copies and, where each steps what it owns, the weights' way back."""
        copies = self.share.data
        if copies == 1:
            return 0.0
        within = self.share.tensor * copies <= self.profile.devices_per_node
        speed = self.profile.intra_node_gbps if within else self.profile.inter_node_gbps
        assert speed is not None
        sent = _ring(copies) * (1.5 if self.share.sharded_optimizer else 1)
        return sent * num_bytes / (speed * 1e9)


def _ring(devices: int) -> float:
    """Bytes that every device of a ring all-reduce sends, as a multiple of what is reduced."""
    return 2 * (devices - 1) / devices
