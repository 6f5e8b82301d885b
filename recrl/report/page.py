"""``report.html``: one page that needs nothing beside it, made from what a run really measured.

The template escapes all text; only the SVG of ``plots.py`` is passed through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recrl.atomic import write_text
from recrl.errors import UserError
from recrl.evaluation.bootstrap import Interval
from recrl.evaluation.results import EvaluationResult, metric_label, metric_names, percent_of_optimum
from recrl.report.collect import Run, Series, Stage, collect, flat
from recrl.report.plots import Line, line_plot, smoothing_width

STAGE_NAMES = {"sft": "Supervised fine-tuning (SFT)", "rl": "Reinforcement learning (RL)"}
RESULT_NAMES = {
    "popularity": "Popularity",
    "item_knn": "Item-kNN",
    "hybrid_knn": "Item-kNN + text",
    "sft": "SFT",
    "sft-alone": "SFT, without its memory",
    "rl": "RL",
    "rl-alone": "RL, without its memory",
    "optimum": "Optimum",
}
STATES = {"finished": "finished", "stopped_early": "stopped early", "running": "still running", "failed": "failed"}
HEADLINE = ("ndcg@10", "hr@10", "recall@10", "pass@10")
BEYOND_ACCURACY = frozenset(("entropy", "list_entropy", "ild", "coverage", "legal", "legal_ratio"))


@dataclass(frozen=True)
class Panel:
    """One plot: its title, the axis, and the metrics that it draws where they were logged."""

    title: str
    y_label: str
    metrics: tuple[tuple[str, str], ...]
    ratio: bool = False
    mark_best: bool = False
    smooth: bool = True


VALIDATION = (
    Panel("Validation NDCG@10", "NDCG@10", (("valid/ndcg@10", "NDCG@10"),), mark_best=True, smooth=False),
    Panel("Validation HR@10", "HR@10", (("valid/hr@10", "HR@10"),), mark_best=True, smooth=False),
)
PANELS = {
    "sft": (
        Panel(
            "Training loss",
            "cross-entropy (nats per token)",
            (("sft/loss", "loss"), ("sft/teacher_loss", "teacher loss")),
        ),
        *VALIDATION,
        Panel("Gradient norm", "L2 norm", (("sft/grad_norm", "gradient norm"),)),
        Panel("Learning rate", "learning rate", (("sft/lr", "learning rate"),), smooth=False),
    ),
    "rl": (
        Panel("Reward", "per response", (("reward/mean", "mean reward"), ("reward/hit_ratio", "hit ratio"))),
        *VALIDATION,
        Panel(
            "Group health",
            "share of groups",
            (
                ("signal/all_zero_ratio", "no hit"),
                ("signal/single_hit_ratio", "one hit"),
                ("signal/trainable_ratio", "trainable"),
                ("signal/repaired_ratio", "repaired"),
            ),
            ratio=True,
        ),
        Panel(
            "Rollouts",
            "share of responses",
            (("rollout/valid_ratio", "legal"), ("rollout/distinct_ratio", "distinct")),
            ratio=True,
        ),
        Panel(
            "Distance from other policies",
            "KL (nats)",
            (("actor/ppo_kl", "from the rollout policy"), ("actor/kl_loss", "from the reference")),
        ),
        Panel("Entropy", "nats per token", (("actor/entropy", "entropy"),)),
        Panel("Policy loss", "loss", (("actor/loss", "loss"),)),
        Panel("Gradient norm", "L2 norm", (("actor/grad_norm", "gradient norm"),)),
        Panel("Clipped tokens", "share of tokens", (("actor/clip_ratio", "clipped"),)),
        Panel("Learning rate", "learning rate", (("actor/lr", "learning rate"),), smooth=False),
    ),
}
PHASES = {
    "gen": "rollout",
    "reward": "reward",
    "old_log_prob": "old log-probabilities",
    "ref": "reference log-probabilities",
    "update_actor": "update",
    "eval": "validation",
}


def build_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page of a run and return its path, by default ``run_dir/report.html``.

    Raises:
        UserError: there is no run, or the page can't be written.
        DataError: a file of the run is broken.
    """
    page = render(collect(run_dir))
    path = out if out is not None else run_dir / "report.html"
    try:
        write_text(path, page)
    except OSError as error:
        raise UserError(f"can't write {path}", why=error.strerror or str(error), fix="pass --out FILE") from None
    return path


def render(run: Run) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=PackageLoader("recrl.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals |= {"stage_names": STAGE_NAMES, "states": STATES}
    environment.filters |= {"duration": duration}
    stages = {stage.name: stage for stage in run.stages}
    return environment.get_template("page.html.j2").render(
        run=run,
        verdict=verdict(run),
        splits=[_tables(run, split) for split in dict.fromkeys(result.split for result in run.results)],
        sections=[_section(name, stages.get(name)) for name in STAGE_NAMES],
    )


def verdict(run: Run) -> tuple[str, str]:
    """RL against SFT: a first sentence and the figures behind it, paired where the users' own numbers were kept."""
    for split in sorted({result.split for result in run.results}, key=lambda name: name != "test"):
        found = {result.name: result for result in run.results if result.split == split and result.kind == "model"}
        if not {"sft", "rl"} <= found.keys():
            continue
        sft, rl = found["sft"], found["rl"]
        shared = [name for name in (*HEADLINE, *sft.metrics) if name in sft.metrics and name in rl.metrics]
        if not shared:
            continue
        if sft.memory != rl.memory:
            return (
                "No comparison of RL with SFT: they were measured beside different memories",
                f"(weight {sft.memory or 0:g} and {rl.memory or 0:g}); `recrl eval` of the run measures both alike.",
            )
        name = shared[0]
        values = f"{metric_label(name)} on {split}: RL {_value(rl, name)}, SFT {_value(sft, name)}."
        pair = run.rl_against_sft.get(split, {}).get(name)
        if pair is None:
            return values, "No per-user numbers of the same users were kept for both, so no paired interval."
        return _pair_words(
            pair
        ), f"{values} Difference {_signed(pair.value)} [{_range(pair)}] (95 % interval, paired over users)."
    missing = [RESULT_NAMES[name] for name in ("sft", "rl") if name not in {result.name for result in run.results}]
    if not run.results:
        return "Nothing has been evaluated yet.", ""
    if not missing:
        return "SFT and RL were not evaluated with a common metric on the same split.", ""
    return f"No comparison of RL with SFT: {' and '.join(missing)} not evaluated yet.", ""


def duration(seconds: float) -> str:
    """``4000`` -> ``1 h 07 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _tables(run: Run, split: str) -> dict[str, object]:
    """The metrics of one split: accuracy, then diversity and validity; rows are results."""
    results = [result for result in run.results if result.split == split]
    names = metric_names(results)
    base = {name: name.partition("@")[0].removesuffix("_bits").removesuffix("_nats") for name in names}
    beyond = [name for name in names if base[name] in BEYOND_ACCURACY]
    accuracy = [name for name in names if name not in beyond]
    pairs = run.rl_against_sft.get(split, {})
    groups = [("Accuracy", accuracy, True), ("Diversity and validity", beyond, False)]
    return {
        "split": split,
        "tables": [_table(results, title, chosen, best) for title, chosen, best in groups if chosen],
        "pairs": [
            {
                "label": metric_label(name),
                "value": _signed(pair.value),
                "interval": _range(pair),
                "words": ("RL above" if pair.low > 0 else "RL below") if pair.excludes_zero else "holds 0",
            }
            for name, pair in ((name, pairs[name]) for name in dict.fromkeys((*names, *pairs)) if name in pairs)
        ],
        "has_optimum": any(result.kind == "optimum" for result in results),
    }


def _table(results: Sequence[EvaluationResult], title: str, names: list[str], mark_best: bool) -> dict[str, object]:
    ranked = [result for result in results if result.kind != "optimum"]
    best = {name: max((r.metrics[name].value for r in ranked if name in r.metrics), default=None) for name in names}
    rows = []
    for result in (one for one in results if set(names) & one.metrics.keys()):
        cells = []
        for name in names:
            metric = result.metrics.get(name)
            share = percent_of_optimum(result, results, name)
            cells.append(
                {
                    "value": None if metric is None else f"{metric.value:.4f}",
                    "interval": _bounds(result, name),
                    "share": None if share is None else f"{share:.0f} % of optimum",
                    "best": mark_best
                    and len(ranked) > 1
                    and metric is not None
                    and result in ranked
                    and metric.value == best[name],
                }
            )
        rows.append({"name": RESULT_NAMES.get(result.name, result.name), "about": _about(result), "cells": cells})
    return {"title": title, "columns": [metric_label(name) for name in names], "rows": rows}


def _about(result: EvaluationResult) -> str:
    parts = [f"{result.num_examples:,} examples"]
    if result.beam_width is not None:
        parts.append(f"beam {result.beam_width}")
    if result.memory is not None:
        parts.append(f"memory of weight {result.memory:g}")
    if result.slate_beams is not None:
        parts.append(f"{result.slate_beams} slates of {result.slate_size}")
    if result.seconds > 0:
        parts.append(duration(result.seconds))
    return ", ".join(parts)


def _section(name: str, stage: Stage | None) -> dict[str, object]:
    """What the template shows of one stage, or of its absence."""
    if stage is None:
        return {"name": name, "stage": None}
    drawn = [(panel, _lines(panel, stage)) for panel in PANELS[name]]
    figures = [_figure(panel, lines, stage, f"{name}{n}") for n, (panel, lines) in enumerate(drawn) if lines]
    return {
        "name": name,
        "stage": stage,
        "figures": figures,
        "not_logged": [panel.title.lower() for panel, lines in drawn if not lines],
        "time": _time(stage),
        "facts": _facts(stage),
        "environment": flat(stage.environment) if stage.environment is not None else None,
    }


def _lines(panel: Panel, stage: Stage) -> list[Line]:
    return [Line(label, stage.series[metric]) for metric, label in panel.metrics if metric in stage.series]


def _figure(panel: Panel, lines: list[Line], stage: Stage, plot_id: str) -> dict[str, object]:
    best_step = stage.status.best_step if stage.status is not None and panel.mark_best else None
    marked = best_step if best_step is not None and best_step in lines[0].series.steps else None
    svg = line_plot(
        lines, y_label=panel.y_label, plot_id=plot_id, ratio=panel.ratio, smooth=panel.smooth, marked_step=marked
    )
    width = max(smoothing_width(len(line.series.values)) for line in lines) if panel.smooth else 1
    notes = []
    if width > 1:
        notes.append(f"Thin: every step. Thick: mean over {width} steps.")
    if marked is not None:
        notes.append(f"Ring: best step, {marked:,}.")
    spans = "; ".join(f"{line.label} {_span(line.series)}" for line in lines)
    alt = f"{panel.title} against optimiser step: {spans}."
    # Markup is right here: the SVG holds our own labels and numbers only.
    return {"title": panel.title, "svg": Markup(svg), "alt": alt, "note": " ".join(notes)}


def _span(series: Series) -> str:
    if len(series.steps) == 1:
        return f"{series.last:.4g} at step {series.steps[0]:,.0f}"
    ends = f"from {series.values[0]:.4g} at step {series.steps[0]:,.0f} to {series.last:.4g} at {series.steps[-1]:,.0f}"
    return f"{ends} (lowest {series.values.min():.4g}, highest {series.values.max():.4g})"


def _time(stage: Stage) -> list[dict[str, object]]:
    """Seconds and shares by phase. ``timing_s/step`` holds its phases but not the validation."""
    total = {key.removeprefix("timing_s/"): series.total for key, series in stage.series.items() if "timing_s/" in key}
    step = total.pop("step", None)
    inside = {key: value for key, value in total.items() if key != "eval"}
    rows = {PHASES.get(key, key): inside[key] for key in (*PHASES, *inside) if key in inside}
    if step is not None:
        rest = step - sum(inside.values())
        rows["rest of the step" if inside else "training step"] = max(rest, 0.0)
    if "eval" in total:
        rows[PHASES["eval"]] = total["eval"]
    whole = sum(rows.values())
    if stage.status is not None and stage.status.seconds is not None and stage.status.seconds > whole:
        rows["start, saving, logging"] = stage.status.seconds - whole
        whole = stage.status.seconds
    if whole <= 0:
        return []
    return [{"name": key, "time": duration(value), "percent": 100 * value / whole} for key, value in rows.items()]


def _facts(stage: Stage) -> list[tuple[str, str]]:
    """Key figures of a stage, each only where it was measured."""
    series, status = stage.series, stage.status
    facts = []
    if status is not None and status.seconds is not None:
        facts.append(("Wall time", duration(status.seconds)))
    if status is not None and status.best_step is not None and status.best_value is not None:
        facts.append(("Best validation NDCG@10", f"{status.best_value:.4f} at step {status.best_step:,}"))
    if series:
        facts.append(("Optimiser steps", f"{max(one.steps[-1] for one in series.values()):,.0f}"))
    if "tokens/actor_effective" in series:
        facts.append(("Tokens computed by the actor", f"{series['tokens/actor_effective'].total:,.0f}"))
    if "perf/throughput" in series:
        facts.append(("Median throughput", f"{_median(series['perf/throughput']):,.0f} tokens/s"))
    if "perf/mfu/actor" in series:
        facts.append(("Median MFU", f"{100 * _median(series['perf/mfu/actor']):.1f} %"))
    if "perf/max_memory_allocated_gb" in series:
        facts.append(("Peak memory", f"{series['perf/max_memory_allocated_gb'].values.max():.2f} GB"))
    return facts


def _median(series: Series) -> float:
    ordered = sorted(series.values.tolist())
    middle = len(ordered) // 2
    return float(ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)


def _bounds(result: EvaluationResult, name: str) -> str | None:
    metric = result.metrics.get(name)
    if metric is None or metric.low is None or metric.high is None:
        return None
    return f"{metric.low:.4f}–{metric.high:.4f}"


def _value(result: EvaluationResult, name: str) -> str:
    bounds = _bounds(result, name)
    return f"{result.metrics[name].value:.4f}" + (f" [{bounds}]" if bounds else "")


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _range(pair: Interval) -> str:
    return f"{_signed(pair.low)} to {_signed(pair.high)}"


def _pair_words(pair: Interval) -> str:
    if not pair.excludes_zero:
        return "No difference shown: the interval holds 0."
    return "RL is above SFT." if pair.low > 0 else "RL is below SFT."
