"""The actor update in our layout against rows with a prompt each, and two active rows a group against all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from recrl.bench.child import run_child
from recrl.bench.layouts import (
    LAYOUTS,
    Layout,
    LayoutRl,
    choose_budget,
    flat_gradient,
    make_layout_rl,
    unpacked,
)
from recrl.bench.markdown import count, megabytes, milliseconds, ratio, table
from recrl.bench.measurement import Figures, Measurement, Seconds, Setting, UnequalWorkError
from recrl.bench.memory import peak_of
from recrl.bench.timing import interleave
from recrl.bench.world import LEVELS, WorldSize, history_of, write_world

ITEMS = 12_000
TOLERANCE = 1e-5
"""On the norm of the gradients' difference, relative to the gradient's."""
KEPT = 2
"""Rows a group that ReCast keeps: the strongest positive and the hardest negative."""

FULL = (WorldSize("0.3M", 8, history_of(512), ITEMS, 32), WorldSize("5M", 4, history_of(512), ITEMS, 32))
QUICK = (WorldSize("0.3M", 2, history_of(256), ITEMS, 32),)
SEVERAL = {"objective": {"kind": "grpo", "kl_beta": 0.001}, "mini_batches": 2}
"""A KL term, so that there is a reference; two optimiser steps a rollout, so that old log-probabilities are needed."""


@dataclass(frozen=True)
class Column:
    """A row of ReCast's Table 4.

    Attributes:
        key: of the step's metrics; ``memory`` and ``cost`` are made here.
        paper: by how much two rows are better than the full group, as the paper has it.
        rises: more is better.
    """

    title: str
    key: str
    paper: float
    rises: bool = False


COLUMNS = (
    Column("step time", "timing_s/step", 4.82),
    Column("actor update", "timing_s/update_actor", 16.60),
    Column("old log-prob", "timing_s/old_log_prob", 13.63),
    Column("reference", "timing_s/ref", 15.25),
    Column("effective tokens", "tokens/actor_effective", 14.78),
    Column("peak memory", "memory", 1.20),  # 43.89 to 36.65 GB, printed as 16.5 % lower
    Column("actor MFU", "perf/mfu/actor", 1.14, rises=True),  # printed as +14.2 %
    Column("update, ms a token", "cost", 1.12),  # printed as 11.0 % lower
)


class Case(Figures):
    """Figures of one size; every dict is by layout, ``all`` and ``two`` are rows a group."""

    shape: str
    prompts: int
    prompt_tokens: int
    group: int
    update: dict[str, Seconds]
    """The update alone, full groups."""
    budget: dict[str, int]
    budgets_tried: dict[str, dict[int, float]]
    """Token budget -> seconds a row."""
    gradient_difference: float
    all: dict[str, dict[str, float]]
    """Medians of the step's metrics, full groups."""
    two: dict[str, dict[str, float]]


class UpdateFigures(Figures):
    cases: list[Case]


def run(setting: Setting, sizes: Sequence[WorldSize] | None = None) -> UpdateFigures:
    """Measure every size.

    Raises:
        UnequalWorkError: the layouts give different gradients.
    """
    chosen = sizes or (QUICK if setting.quick else FULL)
    return UpdateFigures(cases=[measure(size, setting) for size in chosen])


def measure(size: WorldSize, setting: Setting) -> Case:
    """Both comparisons on one world."""
    setting.say(f"update: {size.shape}, {size.prompts} prompts of {size.prompt_tokens} tokens, G = {size.group}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_world(folder, size, setting.threads)
        make = partial(make_layout_rl, folder, size, threads=setting.threads)
        runs = {layout: make(layout, size.group) for layout in LAYOUTS}
        difference = check_gradients(*(runs[layout] for layout in LAYOUTS))
        tried: dict[str, dict[int, float]] = {layout: choose_budget(rl) for layout, rl in runs.items()}
        batches = {layout: rl.active_batch() for layout, rl in runs.items()}
        updates: dict[str, Callable[[], object]] = {
            layout: partial(rl.update, batches[layout]) for layout, rl in runs.items()
        }
        times = interleave(updates, setting.repeats, settle=True)
        kept = {(layout, rows): make(layout, rows, rl=SEVERAL) for layout in LAYOUTS for rows in (size.group, KEPT)}
        steps = measure_steps(kept, setting.repeats)
    peaks = peak_memory(size, setting.threads, {key: rl.update_budget for key, rl in kept.items()})
    steps = {key: values | {"memory": peaks[key]} for key, values in steps.items()}
    return Case(
        shape=size.shape,
        prompts=size.prompts,
        prompt_tokens=size.prompt_tokens,
        group=size.group,
        update=times,
        budget={layout: rl.update_budget for layout, rl in runs.items()},
        budgets_tried=tried,
        gradient_difference=difference,
        all={layout: steps[layout, size.group] for layout in LAYOUTS},
        two={layout: steps[layout, KEPT] for layout in LAYOUTS},
    )


def check_gradients(shared: LayoutRl, apart: LayoutRl) -> float:
    """Both layouts give the same gradient; the norm of the difference over its norm.

    Raises:
        UnequalWorkError: they do not.
    """
    batch = shared.active_batch()
    ours, theirs = flat_gradient(shared, batch), flat_gradient(apart, unpacked(batch))
    difference = float((ours - theirs).norm() / theirs.norm())
    if not difference <= TOLERANCE:
        raise UnequalWorkError(
            f"gradients differ by {difference:.2g} of their norm", why=f"more than {TOLERANCE} is another update"
        )
    return difference


Key = tuple[Layout, int]


def measure_steps(runs: dict[Key, LayoutRl], repeats: int) -> dict[Key, dict[str, float]]:
    """Whole steps in turn, each run with its fastest token budget; the medians of their metrics."""
    for rl in runs.values():
        choose_budget(rl)
    taken: dict[Key, list[dict[str, float]]] = {key: [] for key in runs}

    def step(key: Key) -> None:
        taken[key].append(runs[key].step())

    interleave({str(key): partial(step, key) for key in runs}, repeats, warmup=1)
    return {key: _medians(steps[1:]) for key, steps in taken.items()}


def _medians(steps: list[dict[str, float]]) -> dict[str, float]:
    """Of the metrics that ``COLUMNS`` names, and the milliseconds of update that a token costs."""
    keys = [column.key for column in COLUMNS if "/" in column.key]
    values = {key: median(step[key] for step in steps) for key in keys}
    return values | {"cost": 1000 * values["timing_s/update_actor"] / values["tokens/actor_effective"]}


def peak_memory(size: WorldSize, threads: int, budgets: dict[Key, int]) -> dict[Key, float]:
    """Bytes that a first step needs, in a fresh process each."""

    def peak(key: Key) -> float:
        layout, active = key
        given = {"size": asdict(size), "layout": layout, "active": active, "budget": budgets[key], "threads": threads}
        return float(run_child("recrl.bench.update:first_step", given)["peak"])

    with ThreadPoolExecutor(2) as pool:  # nothing is timed in them
        return dict(zip(budgets, pool.map(peak, budgets), strict=True))


def first_step(given: dict[str, Any]) -> dict[str, Any]:
    """Runs in a child: peak memory of a run's first step."""
    torch.set_num_threads(given["threads"])
    size = WorldSize(**given["size"])
    with tempfile.TemporaryDirectory() as name:
        write_world(Path(name), size, given["threads"])
        rl = make_layout_rl(Path(name), size, given["layout"], given["active"], given["threads"], rl=SEVERAL)
    rl.update_budget = given["budget"]
    return {"peak": peak_of(rl.step)}


def render(figures: UpdateFigures) -> str:
    """A table of updates, and one of ReCast's columns for every size."""
    updates = [
        (
            case.shape,
            f"{case.prompts} x {case.group}",
            case.prompt_tokens,
            *(f"{milliseconds(case.update[layout].median)} ({count(case.budget[layout])})" for layout in LAYOUTS),
            ratio(case.update["unpacked"].median / case.update["shared"].median),
            f"{case.gradient_difference:.1e}",
        )
        for case in figures.cases
    ]
    titles = (
        "model",
        "prompts x G",
        "prompt tokens",
        "shared prefix",
        "a prompt a row",
        "ratio",
        "difference",
    )
    parts = [
        "Update of full groups (in brackets: the token budget of a micro-batch, the fastest of those tried):",
        table(titles, updates),
        f"{KEPT} active rows a group in place of all, as ratios (above 1: better):",
        *(_recast(case) for case in figures.cases),
    ]
    return "\n\n".join(parts)


def _recast(case: Case) -> str:
    rows = []
    for column in COLUMNS:
        cells = [column.title, f"{column.paper:.2f}x"]
        for layout in LAYOUTS:
            full, two = case.all[layout][column.key], case.two[layout][column.key]
            better = two / full if column.rises else full / two
            cells += [_shown(column.key, full), _shown(column.key, two), ratio(better)]
        rows.append(cells)
    what = [f"{name}, {rows}" for name in ("shared", "a prompt a row") for rows in ("all", "two", "ratio")]
    return table((f"{case.shape}, G = {case.group}", "paper's ratio", *what), rows)


def _shown(key: str, value: float) -> str:
    if key.startswith("timing_s/"):
        return milliseconds(value)
    if key == "memory":
        return megabytes(value)
    return count(value) if key.startswith("tokens/") else f"{value:.3g}"


UPDATE = Measurement(
    title="Actor update: shared prefix, and two rows a group",
    about=f"""\
GRPO's update (forward, backward, clipping, optimiser step) in two layouts of the same rows: a prompt once with all of
its responses, and what these share at their beginnings once, against every response with a copy of its prompt, through
the same `Rl.update` and `TransformersPolicy.logp`. Both compute their prompts. Each takes the fastest of several token
budgets. Before timing, both give the same gradient (relative difference at most {TOLERANCE}; {LEVELS} tokens a
response). Each runs once untimed before every update that counts, so that neither starts with the other's caches.

Then whole steps (`Rl.step`, with reference and old log-probabilities) with {KEPT} active rows a group against all, as
ReCast has it, beside the ratios of its Table 4, which come from another model on other devices. There a row carries
its prompt, as in the second layout; in ours inactive rows cost little to begin with. Peak memory is what a first step
adds to a fresh process; MFU is of the measured peak of float32 products.""",
    figures=UpdateFigures,
    run=run,
    render=render,
)
