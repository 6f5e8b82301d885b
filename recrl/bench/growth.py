"""Time and memory of a step as prompts, groups, the catalogue and the model grow, each point in a fresh process."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from recrl.backends.policy import BeamState, Policy
from recrl.backends.torch_backend import TransformersPolicy
from recrl.bench.child import run_child
from recrl.bench.markdown import count, megabytes, milliseconds, ratio, table
from recrl.bench.measurement import Figures, Measurement, Seconds, Setting
from recrl.bench.memory import peak_of
from recrl.bench.plots import Line, Panel, png
from recrl.bench.timing import seconds_of
from recrl.bench.world import WorldSize, history_of, make_rl, write_world
from recrl.groups.prompts import PromptBatch
from recrl.training.rl import Rl

PHASES = ("gen", "update_actor")
PARTS = ("prefill", "extend", "scoring", "lookup")
"""Of the rollout: prompts, one token for every beam, log-probabilities of candidates, trie and choice."""

Axes = Mapping[str, Sequence[WorldSize]]
BASE = WorldSize("0.3M", 8, history_of(128), 10_000, 16)


def _axes(lengths: Sequence[int], groups: Sequence[int], items: Sequence[int], shapes: Sequence[str]) -> Axes:
    return {
        "prompt": [replace(BASE, history=history_of(length)) for length in lengths],
        "group": [replace(BASE, group=group) for group in groups],
        "catalogue": [replace(BASE, items=number) for number in items],
        "model": [replace(BASE, shape=shape) for shape in shapes],
    }


FULL = _axes(
    (32, 128, 512, 2048, 8192),
    (4, 16, 64, 256, 512),
    (1_000, 10_000, 100_000, 1_000_000),
    ("0.3M", "5M", "20M", "50M", "150M"),
)
QUICK = _axes((128, 512), (16, 128), (10_000, 100_000), ("0.3M", "5M"))
LABELS = {"prompt": "Prompt tokens", "group": "G", "catalogue": "Items", "model": "Parameters"}


class Point(Figures):
    """Figures of one size; dicts hold median seconds."""

    shape: str
    parameters: int
    prompts: int
    prompt_tokens: int
    group: int
    items: int
    step: Seconds
    phases: dict[str, float]
    parts: dict[str, float]
    peak: int
    """Bytes that a first step adds to the process."""

    def x(self, axis: str) -> int:
        """Where the point stands on an axis."""
        return {
            "prompt": self.prompt_tokens,
            "group": self.group,
            "catalogue": self.items,
            "model": self.parameters,
        }[axis]


class GrowthFigures(Figures):
    axes: dict[str, list[Point]]


def run(setting: Setting, axes: Axes | None = None) -> GrowthFigures:
    """Measure every point; sizes that stand on several axes once."""
    chosen = axes or (QUICK if setting.quick else FULL)
    measured: dict[WorldSize, Point] = {}
    for size in (size for sizes in chosen.values() for size in sizes):
        if size not in measured:
            setting.say(
                f"growth: {size.shape}, {size.prompts} prompts of {size.prompt_tokens} tokens, "
                f"G = {size.group}, {size.items:,} items"
            )
            given = {"size": asdict(size), "threads": setting.threads, "repeats": setting.repeats}
            measured[size] = Point.model_validate(run_child("recrl.bench.growth:measure", given))
    return GrowthFigures(axes={axis: [measured[size] for size in sizes] for axis, sizes in chosen.items()})


def measure(given: dict[str, Any]) -> dict[str, Any]:
    """Runs in a child: the figures of one size."""
    torch.set_num_threads(given["threads"])
    size = WorldSize(**given["size"])
    with tempfile.TemporaryDirectory() as name:
        rl = make_rl(write_world(Path(name), size, given["threads"]))
    steps: list[dict[str, float]] = []
    peak = peak_of(lambda: steps.append(rl.step()))  # the first step allocates the optimiser's state too
    steps = [rl.step() for _ in range(given["repeats"])]
    found = Point(
        shape=size.shape,
        parameters=sum(parameter.numel() for parameter in rl.policy.model.parameters()),
        prompts=size.prompts,
        prompt_tokens=size.prompt_tokens,
        group=size.group,
        items=size.items,
        step=Seconds(runs=[step["timing_s/step"] for step in steps]),
        phases={phase: median(step[f"timing_s/{phase}"] for step in steps) for phase in PHASES},
        parts=rollout_parts(rl, given["repeats"]),
        peak=peak,
    )
    return found.model_dump()


class TimedPolicy:
    """A policy that adds up the time of what a rollout asks of it."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.seconds: dict[str, float] = defaultdict(float)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    @contextmanager
    def _time(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - begin

    def prefill(self, prompts: PromptBatch) -> tuple[BeamState, Tensor]:
        with self._time("prefill"):
            return self._policy.prefill(prompts)

    def extend(self, state: BeamState, parent: Tensor, token: Tensor, step: int) -> Tensor:
        with self._time("extend"):
            return self._policy.extend(state, parent, token, step)

    def candidate_logp(self, hidden: Tensor, candidates: Tensor, exists: Tensor, bias: Tensor | None = None) -> Tensor:
        with self._time("scoring"):
            return self._policy.candidate_logp(hidden, candidates, exists, bias)


def rollout_parts(rl: Rl, repeats: int) -> dict[str, float]:
    """Median seconds of a rollout's parts; what is left of the whole is the lookup in the trie and the choice."""
    policy, prompts = rl.policy, rl.environment.prompts(0)
    taken: list[dict[str, float]] = []
    for _ in range(repeats):
        timed = TimedPolicy(policy)
        rl.policy = cast("TransformersPolicy", timed)
        whole = seconds_of(lambda: rl.rollout(prompts, 0))
        taken.append(timed.seconds | {"lookup": whole - sum(timed.seconds.values())})
    rl.policy = policy
    return {part: median(seconds[part] for seconds in taken) for part in PARTS}


def render(figures: GrowthFigures) -> str:
    """A sentence for two axes, and a plot and a table for every axis."""
    parts = [
        _statement(figures.axes[axis], axis, chosen) for axis, chosen in STATEMENTS.items() if axis in figures.axes
    ]
    for axis, points in figures.axes.items():
        parts += [f"![{LABELS[axis]}](plots/growth-{axis}.png)", _table(points, axis)]
    return "\n\n".join(parts)


STATEMENTS = {"group": ("prefill", "extend"), "catalogue": ("prefill", "extend", "scoring", "lookup")}
"""Axis -> the parts of the rollout whose growth is told in a sentence."""


def _statement(points: Sequence[Point], axis: str, parts: Sequence[str]) -> str:
    """By how much some parts grow from the first to the last point of an axis."""
    first, last = points[0], points[-1]
    grown = ", ".join(
        f"{part} {ratio(last.parts[part] / first.parts[part])} "
        f"({milliseconds(first.parts[part])} to {milliseconds(last.parts[part])})"
        for part in parts
    )
    begin, end = first.x(axis), last.x(axis)
    return f"{LABELS[axis]} from {begin:,} to {end:,} ({ratio(end / begin)}): {grown}."


def _table(points: Sequence[Point], axis: str) -> str:
    rows = [
        (
            count(point.x(axis)),
            milliseconds(point.step.median),
            *(milliseconds(point.phases[phase]) for phase in PHASES),
            *(milliseconds(point.parts[part]) for part in PARTS),
            megabytes(point.peak),
        )
        for point in points
    ]
    return table((LABELS[axis], "step", "rollout", "update", *PARTS, "peak memory"), rows)


def plots(figures: GrowthFigures) -> dict[str, bytes]:
    """Time and memory over every axis."""
    return {f"growth-{axis}.png": _plot(points, axis) for axis, points in figures.axes.items()}


def _plot(points: Sequence[Point], axis: str) -> bytes:
    x = [point.x(axis) for point in points]
    times = [
        Line("step", x, [point.step.median for point in points]),
        *(Line(part, x, [point.parts[part] for point in points]) for part in PARTS),
    ]
    memory = [Line("peak memory", x, [point.peak / 1e6 for point in points])]
    return png(LABELS[axis], (Panel("seconds", times), Panel("peak memory of a step, MB", memory)))


GROWTH = Measurement(
    title="Growth",
    about=f"""\
Whole steps of `Rl.step` on {BASE.prompts} prompts; one size changes at a time, the others are {BASE.shape}
parameters, {BASE.prompt_tokens} prompt tokens, G = {BASE.group}, {BASE.items:,} items of 3 x 256 codes. Every point
is a process of its own; peak memory is what its first step adds to what was there before. The rollout's parts:
`prefill` reads the prompts, `extend` computes one token for every beam, `scoring` gives the log-probabilities of the
candidates, `lookup` is the rest: the trie and the choice of beams. Prompt work (`prefill`) should not grow with G,
beam work (`extend`) not with the catalogue; the trie's nodes have more children in a larger one, which is for
`scoring` and `lookup` to feel.""",
    figures=GrowthFigures,
    run=run,
    render=render,
    plots=plots,
)
