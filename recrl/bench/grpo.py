"""One GRPO step of ours against one of TRL's."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from recrl.bench.markdown import milliseconds, ratio, table
from recrl.bench.measurement import Figures, Measurement, Seconds, Setting, UnequalWorkError
from recrl.bench.trl_peer import Peer, load_trl
from recrl.bench.world import LEVELS, WorldSize, history_of, make_rl, write_world
from recrl.groups.packed import PackedGroups, pack_active
from recrl.groups.rollout import Signal
from recrl.models.shared_prefix import ReadPrompts
from recrl.objectives.base import ObjectiveInputs
from recrl.training.rl import Rl

ITEMS = 12_000
TOLERANCE = 1e-4
WARMUP = 1
TOKENS_AT_ONCE = 1 << 15
"""Prompt and response tokens of the largest micro-batch that TRL is tried with."""

FULL = (
    WorldSize("0.3M", 64, history_of(40), ITEMS, 16),
    WorldSize("5M", 64, history_of(40), ITEMS, 16),
    WorldSize("0.3M", 64, history_of(200), ITEMS, 32),
    WorldSize("5M", 16, history_of(200), ITEMS, 32),
)
QUICK = (WorldSize("0.3M", 16, history_of(40), ITEMS, 16), WorldSize("0.3M", 2, history_of(200), ITEMS, 32))


class Case(Figures):
    """Figures of one size."""

    shape: str
    parameters: int
    vocabulary: int
    prompts: int
    prompt_tokens: int
    group: int
    ours: Seconds
    theirs: Seconds
    our_phases: dict[str, float]
    """Median seconds of gen, reward and update_actor."""
    their_rollout: float
    """Median seconds of generation, rewards and advantages."""
    per_device: int
    per_device_tried: dict[int, float]
    """Rows of TRL's micro-batch -> seconds a row."""
    logp_difference: float
    losses: tuple[float, float]
    """Ours and TRL's on the same rows."""


class GrpoFigures(Figures):
    cases: list[Case]


def run(setting: Setting, sizes: Sequence[WorldSize] | None = None) -> GrpoFigures:
    """Measure every size.

    Raises:
        PeerMissingError: TRL is not installed.
        UnequalWorkError: the two do not compute the same.
    """
    load_trl()
    chosen = sizes or (QUICK if setting.quick else FULL)
    return GrpoFigures(cases=[measure(size, setting) for size in chosen])


def measure(size: WorldSize, setting: Setting) -> Case:
    """Check that both compute the same on the same rows, then time whole steps in turn."""
    setting.say(f"grpo: {size.shape}, {size.prompts} prompts of {size.prompt_tokens} tokens, G = {size.group}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rl = make_rl(write_world(folder, size, setting.threads))
        batch, read = checked_batch(rl, seed=0)
        trial = Peer(rl, folder / "trial", size.group, 1)
        difference, losses = check_equal(rl, trial, batch, read)
        tried = trial.time_per_device(batch, micro_batches(size))
        per_device = min(tried, key=lambda rows: tried[rows])
        metrics: list[dict[str, float]] = []
        times = Peer(rl, folder / "trl", per_device, WARMUP + setting.repeats).train(lambda: metrics.append(rl.step()))
        check_rows(size, metrics)
        model = rl.policy.model
        ours, theirs, rollout = times.after(WARMUP)
        return Case(
            shape=size.shape,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            vocabulary=len(rl.policy.tokenizer),
            prompts=size.prompts,
            prompt_tokens=size.prompt_tokens,
            group=size.group,
            ours=ours,
            theirs=theirs,
            our_phases={
                phase: median(values[f"timing_s/{phase}"] for values in metrics[WARMUP:])
                for phase in ("gen", "reward", "update_actor")
            },
            their_rollout=rollout.median,
            per_device=per_device,
            per_device_tried=tried,
            logp_difference=difference,
            losses=losses,
        )


def micro_batches(size: WorldSize) -> list[int]:
    """Rows of a micro-batch to try TRL with: they divide the step's rows and fit into memory."""
    row = size.prompt_tokens + LEVELS
    sizes = [
        rows for rows in (16, 32, 64, 128, 256, 512, 1024) if size.rows % rows == 0 and rows * row <= TOKENS_AT_ONCE
    ]
    return sizes or [size.rows]


def checked_batch(rl: Rl, seed: int) -> tuple[PackedGroups, ReadPrompts | None]:
    """The rows of a rollout with random advantages, and old log-probabilities near but not equal to the new ones; and
    what an update would have of the rollout.

    With the real ones the loss would be the mean advantage, whatever the log-probabilities are.
    """
    generator = torch.Generator().manual_seed(seed)
    groups = rl.rollout(rl.environment.prompts(0), seed)
    advantage = torch.randn(groups.exists.shape, generator=generator)
    signal = Signal(groups, advantage, groups.exists, groups.exists.any(1))
    batch = pack_active(signal, rl.policy.ops)
    read = rl.read_prompts(signal, batch)
    with torch.no_grad():
        logp = rl.all_logps(rl.policy, batch)
    return batch.with_logps(logp + 0.2 * torch.randn(logp.shape, generator=generator), None), read


def our_loss(rl: Rl, batch: PackedGroups, read: ReadPrompts | None) -> tuple[Tensor, Tensor]:
    """The loss of an optimiser step, and the log-probabilities, computed as a step does."""
    objective, options = rl.method.objective, rl.method.objective_options
    logp, _ = rl.policy.logp(batch, read)
    total, _ = objective.run(logp, ObjectiveInputs.of(batch, logp, rl.policy.ops, {}), options)
    return total / objective.units(batch, options), logp


def check_equal(rl: Rl, peer: Peer, batch: PackedGroups, read: ReadPrompts | None) -> tuple[float, tuple[float, float]]:
    """Log-probabilities and loss of both on the same rows; their largest difference, and both losses.

    Raises:
        UnequalWorkError: prompts, log-probabilities or losses differ by more than ``TOLERANCE``.
    """
    peer.check_prompts()
    with torch.no_grad():
        ours, logp = our_loss(rl, batch, read)
        theirs, their_logp = peer.loss(batch)
    difference = float((logp - their_logp).abs().max())
    losses = float(ours), float(theirs)
    if difference > TOLERANCE:
        raise UnequalWorkError(
            f"log-probabilities differ by {difference:.2g}", why=f"more than {TOLERANCE} is other work"
        )
    if abs(losses[0] - losses[1]) > TOLERANCE:
        raise UnequalWorkError(f"our loss is {losses[0]:.6f}, TRL's {losses[1]:.6f}", why="the rows are the same")
    return difference, losses


def check_rows(size: WorldSize, metrics: list[dict[str, float]]) -> None:
    """Every step of ours updated once, on every row of every group.

    Raises:
        UnequalWorkError: some rows were filtered.
    """
    for values in metrics:
        rows, steps = values["signal/active_rows"], values["actor/optimizer_steps"]
        if (rows, steps) != (size.rows, 1):
            raise UnequalWorkError(
                f"a step of ours updated {steps:.0f} times on {rows:.0f} rows", why=f"TRL does once on {size.rows}"
            )


def render(figures: GrpoFigures) -> str:
    """A table of steps and one of phases."""
    steps = [
        (
            case.shape,
            f"{case.parameters:,}",
            f"{case.prompts} x {case.group}",
            case.prompt_tokens,
            milliseconds(case.ours.median),
            milliseconds(case.theirs.median),
            ratio(case.theirs.median / case.ours.median),
        )
        for case in figures.cases
    ]
    phases = [
        (
            case.shape,
            f"{case.prompts} x {case.group}",
            case.prompt_tokens,
            milliseconds(case.our_phases["gen"]),
            milliseconds(case.their_rollout),
            milliseconds(case.our_phases["update_actor"]),
            milliseconds(case.theirs.median - case.their_rollout),
            case.per_device,
            f"{case.logp_difference:.1e}",
        )
        for case in figures.cases
    ]
    return "\n\n".join(
        (
            table(("model", "parameters", "prompts x G", "prompt tokens", "ours", "TRL", "TRL / ours"), steps),
            "Phases, and the largest difference of a log-probability:",
            table(
                (
                    "model",
                    "prompts x G",
                    "prompt tokens",
                    "our rollout",
                    "TRL's",
                    "our update",
                    "TRL's",
                    "TRL's micro-batch (rows)",
                    "difference",
                ),
                phases,
            ),
        )
    )


GRPO = Measurement(
    title="GRPO step, against TRL",
    about=f"""\
A whole step of each: rollout, hit reward, advantages, update with one optimiser step. Ours is `Rl.step` of a run as
`recrl rl` starts it, TRL's is `GRPOTrainer.train`; after each of TRL's steps comes one of ours. Same weights,
prompts, number of responses and optimiser, float32, no KL term, {LEVELS} new tokens, all rows of all groups in the
update (our filter of groups without a signal is off). TRL runs without gradient checkpointing, bfloat16, logging and
saving; its micro-batch is the fastest of those tried. Ours takes the default token budget, which all rows fit, so that
its update goes on from the prompts that its rollout has read. Before timing, both compute log-probabilities and loss of
the same rows with the same advantages; a difference above {TOLERANCE} stops the measurement.

The rollouts differ by nature: ours is a constrained beam search, whose responses are distinct items; TRL's is
sampling over the whole vocabulary.""",
    figures=GrpoFigures,
    run=run,
    render=render,
)
