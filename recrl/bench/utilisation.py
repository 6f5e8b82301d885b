"""How much of the machine's arithmetic the actor update reaches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from recrl.bench.layouts import choose_budget, make_layout_rl
from recrl.bench.markdown import count, milliseconds, table
from recrl.bench.measurement import Figures, Measurement, Seconds, Setting, UnequalWorkError
from recrl.bench.plots import Line, Panel, png
from recrl.bench.timing import interleave
from recrl.bench.world import LEVELS, WorldSize, history_of, write_world
from recrl.device.matmul_speed import product_flops
from recrl.hardware.flops import Work
from recrl.models.checkpoint import load_folder
from recrl.training.meter import Meter, products_of, products_of_model

ITEMS = 12_000
TOLERANCE = 0.05
CHECKED_ROWS = 2
DTYPES = ("float32", "bfloat16")
CPU = torch.device("cpu")

FULL = tuple(WorldSize(shape, 8, history_of(256), ITEMS, 16) for shape in ("0.3M", "5M", "20M", "100M"))
QUICK = tuple(WorldSize(shape, 2, history_of(256), ITEMS, 16) for shape in ("0.3M", "5M"))


class CountingMeter(Meter):
    """A meter that shows what it counted since the last ``take``."""

    @property
    def flops(self) -> float:
        return self._flops


class Case(Figures):
    """Figures of one size in one arithmetic."""

    shape: str
    parameters: int
    dtype: str
    tokens: int
    budget: int
    flops: float
    """Of one update."""
    update: Seconds
    peak_flops: list[float]
    """FLOP/s of a large matrix product, one after each of the updates."""

    @property
    def achieved(self) -> float:
        """FLOP/s."""
        return self.flops / self.update.median

    @property
    def share(self) -> float:
        return self.achieved / median(self.peak_flops)


class UtilisationFigures(Figures):
    cases: list[Case]
    product_size: int
    counted: float
    """Our formula's FLOPs over those that torch counts."""


def run(setting: Setting, sizes: Sequence[WorldSize] | None = None) -> UtilisationFigures:
    """Measure every size in both arithmetics.

    Raises:
        UnequalWorkError: torch counts other FLOPs than our formula.
    """
    chosen = sizes or (QUICK if setting.quick else FULL)
    product = 1024 if setting.quick else 2048
    cases: list[Case] = []
    counted = 0.0
    for size in chosen:
        setting.say(f"utilisation: {size.shape}")
        with tempfile.TemporaryDirectory() as name:
            write_world(Path(name), size, setting.threads)
            counted = counted or check_flops(Path(name) / "model", size.prompt_tokens)
            cases += measure(Path(name), size, setting, product)
    return UtilisationFigures(cases=cases, product_size=product, counted=counted)


def check_flops(model_folder: Path, prompt_tokens: int) -> float:
    """The formula's FLOPs over torch's, for plain rows of stock attention.

    torch counts every pair of positions, seen or not, so all are given; stock layers hold no op that it can't count.

    Raises:
        UnequalWorkError: they differ by more than ``TOLERANCE``.
    """
    model, _ = load_folder(model_folder)
    model.set_attn_implementation("eager")
    length = prompt_tokens + LEVELS
    meter = CountingMeter(products_of_model(model), CPU, "float32")
    meter.count(Work(CHECKED_ROWS * length, CHECKED_ROWS * length * length, CHECKED_ROWS * length))
    with FlopCounterMode(display=False) as counter:
        model(torch.ones(CHECKED_ROWS, length, dtype=torch.long)).logits.sum().backward()
    counted = float(meter.flops / counter.get_total_flops())
    if abs(counted - 1) > TOLERANCE:
        raise UnequalWorkError(
            f"our formula gives {counted:.3f} of the FLOPs that torch counts", why=f"more than {TOLERANCE:.0%} off"
        )
    return counted


def measure(folder: Path, size: WorldSize, setting: Setting, product: int) -> list[Case]:
    """Updates and matrix products in both arithmetics, all in turn."""
    runs = {
        dtype: make_layout_rl(folder, size, "shared", size.group, setting.threads, backend={"dtype": dtype})
        for dtype in DTYPES
    }
    tasks: dict[str, Callable[[], object]] = {}
    peaks: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    for dtype, rl in runs.items():
        rl.meter = CountingMeter(products_of(rl.policy), CPU, dtype)
        choose_budget(rl)
        tasks[dtype] = partial(rl.update, rl.active_batch())
        tasks[f"{dtype} product"] = lambda dtype=dtype: peaks[dtype].append(  # type: ignore[misc]
            product_flops(CPU, dtype, (product,))
        )
    times = interleave(tasks, setting.repeats)
    cases = []
    for dtype, rl in runs.items():
        meter = rl.meter
        assert isinstance(meter, CountingMeter)
        updates = 1 + setting.repeats
        flops, tokens = meter.flops / updates, meter.take("update_actor")["tokens/actor_effective"] / updates
        cases.append(
            Case(
                shape=size.shape,
                parameters=sum(parameter.numel() for parameter in rl.policy.model.parameters()),
                dtype=dtype,
                tokens=round(tokens),
                budget=rl.update_budget,
                flops=flops,
                update=times[dtype],
                peak_flops=peaks[dtype][1:],
            )
        )
    return cases


def render(figures: UtilisationFigures) -> str:
    """A plot and a table."""
    rows = [
        (
            case.shape,
            f"{case.parameters:,}",
            case.dtype,
            f"{count(case.tokens)} ({count(case.budget)})",
            milliseconds(case.update.median),
            f"{case.achieved / 1e9:.1f}",
            f"{median(case.peak_flops) / 1e9:.1f}",
            f"{case.share:.0%}",
        )
        for case in figures.cases
    ]
    size = figures.product_size
    return "\n\n".join(
        (
            f"Our formula gives {figures.counted:.3f} of the FLOPs that torch counts for plain rows.",
            "![share of the peak](plots/utilisation.png)",
            table(
                (
                    "model",
                    "parameters",
                    "arithmetic",
                    "tokens (budget)",
                    "update",
                    "GFLOP/s",
                    f"product of {size} x {size}, GFLOP/s",
                    "share",
                ),
                rows,
            ),
        )
    )


def plots(figures: UtilisationFigures) -> dict[str, bytes]:
    """Share of the peak over the model's size."""
    lines = []
    for dtype in DTYPES:
        cases = [case for case in figures.cases if case.dtype == dtype]
        lines.append(Line(dtype, [case.parameters for case in cases], [case.share for case in cases]))
    return {"utilisation.png": png("parameters", [Panel("share of the measured peak", lines, log_y=False)])}


UTILISATION = Measurement(
    title="Utilisation of the actor update",
    about=f"""\
FLOP/s of `Rl.update` on full groups (G = {FULL[0].group}, {FULL[0].prompt_tokens} prompt tokens), over those of a
large matrix product on the same cores in the same arithmetic, in turn with it. FLOPs are those that a run's
`perf/mfu/actor` counts: real tokens and pairs of positions that see each other, three passes, no padding and no
recomputation. The formula agrees with torch's own counter within {TOLERANCE:.0%}; otherwise nothing is reported. Time
for clipping and the optimiser step is included. bfloat16 keeps float32 weights and runs products in bfloat16.""",
    figures=UtilisationFigures,
    run=run,
    render=render,
    plots=plots,
)
