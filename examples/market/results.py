"""Write RESULTS.md from what run.sh left: ``python examples/market/results.py > examples/market/RESULTS.md``."""

from __future__ import annotations

import json
import statistics
import tomllib
from pathlib import Path

import numpy as np

from recrl.comparison.statistics import estimates
from recrl.evaluation.bootstrap import Interval
from recrl.evaluation.results import EvaluationResult, load_result, paired

RUNS = Path("runs")
METRIC = "ndcg@10"
LAST_STEPS = 25
ANSWERED = ("environment/click_ratio", "environment/no_click_ratio")
INTRODUCTION = """# Results

Written by `results.py` from the files of the runs that `run.sh` does. Test split, 2,000 users, full ranking over 500
items, models of the preset `tiny` from scratch. In brackets 95 % bootstrap intervals over users, and of differences
over users and seeds. `control` is SFT on the log and as many further logged interactions as RL shows items
(`extra_interactions`); its valid and test users are the same. Both have a memory of `hybrid_knn`, each of its own log,
and are measured once more without it. `optimum` is the best that any recommender can expect.
"""


def file(run: str, name: str) -> Path:
    return RUNS / run / "evaluation" / f"{name}-test.json"


def result(run: str, name: str) -> EvaluationResult | None:
    path = file(run, name)
    return load_result(path) if path.is_file() else None


def cell(found: EvaluationResult | None, metric: str = METRIC) -> str:
    value = found.metrics.get(metric) if found else None
    if value is None:
        return "-"
    interval = "" if value.low is None else f" ({value.low:.4f} to {value.high:.4f})"
    return f"{value.value:.4f}{interval}"


def row(name: str, found: list[EvaluationResult | None], best: float) -> str:
    values = [one.metrics[METRIC].value for one in found if one]
    if not values:
        return ""
    mean = statistics.mean(values)
    return "| " + " | ".join([name, *map(cell, found), f"{mean:.4f}", f"{100 * mean / best:.1f} %"]) + " |"


def main_table(seeds: list[int]) -> list[str]:
    optimum = next(one for seed in seeds if (one := result(f"market-{seed}", "optimum")))
    best = optimum.metrics[METRIC].value
    rows = {
        "popularity": ("market", "popularity"),
        "item_knn": ("market", "item_knn"),
        "item_knn on the control's data": ("control", "item_knn"),
        "hybrid_knn": ("market", "hybrid_knn"),
        "hybrid_knn on the control's data": ("control", "hybrid_knn"),
        "SFT, without its memory": ("market", "sft-alone"),
        "SFT": ("market", "sft"),
        "control: SFT with further logged data, without its memory": ("control", "sft-alone"),
        "control": ("control", "sft"),
        "SFT and RL on clicks, without its memory": ("market", "rl-alone"),
        "SFT and RL on clicks": ("market", "rl"),
        "optimum": ("market", "optimum"),
    }
    lines = ["| NDCG@10 | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | of the optimum |"]
    lines.append("|---" * (len(seeds) + 3) + "|")
    for name, (run, of) in rows.items():
        lines.append(row(name, [result(f"{run}-{seed}", of) for seed in seeds], best))
    return [line for line in lines if line]


def difference(pairs: list[tuple[Path, Path]], metric: str = METRIC) -> str:
    """The second of every pair less the first, over the same users; a pair a seed."""
    both = [paired(first, second)[metric] for first, second in pairs]
    values = [(after - before).astype(np.float64) for before, after in both]
    return signed(estimates({metric: values})[metric].interval)


def differences(seeds: list[int]) -> list[str]:
    lines = []
    others = {
        "SFT": ("market", "sft"),
        "hybrid_knn": ("market", "hybrid_knn"),
        "the control": ("control", "sft"),
        "the control without its memory": ("control", "sft-alone"),
    }
    for name, (run, of) in others.items():
        pairs = [(file(f"{run}-{seed}", of), file(f"market-{seed}", "rl")) for seed in seeds]
        each = ", ".join(difference([pair]) for pair in pairs)
        lines.append(f"- RL minus {name}, same users: **{difference(pairs)}**; seed by seed {each}")
    return lines


def signed(found: Interval) -> str:
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def stages(seeds: list[int]) -> list[str]:
    lines = []
    for seed in seeds:
        for name, run, stage in (("SFT", "market", "sft"), ("RL", "market", "rl"), ("control", "control", "sft")):
            path = RUNS / f"{run}-{seed}" / stage / "status.json"
            if path.is_file():
                status = json.loads(path.read_text())
                lines.append(
                    f"- seed {seed}, {name}: {status['reason']}; {status['seconds'] / 60:.1f} minutes; best validation "
                    f"NDCG@10 {status.get('best_value', float('nan')):.4f} at step {status.get('best_step')}"
                )
    return lines


def setting_table(setting: str, seeds: list[int]) -> list[str]:
    """Of every method the test figures of its best checkpoints, against the SFT without its memory that it began with,
    and what visitors did in its last steps."""
    head = ("after RL", "NDCG@10, seed by seed", "minus start", "Cold-Recall@10 minus start", "clicks of items shown")
    lines = ["| " + " | ".join([*head, "visits without a click"]) + " |", "|---" * (len(head) + 1) + "|"]
    for method in sorted({path.name.split("-")[1] for path in RUNS.glob(f"{setting}-*")}):
        runs = {seed: f"{setting}-{method}-{seed}" for seed in seeds}
        if not all(file(run, "rl").is_file() for run in runs.values()):
            continue
        pairs = [(file(f"market-{seed}", "sft-alone"), file(run, "rl")) for seed, run in runs.items()]
        values = " ".join(f"{load_result(path).metrics[METRIC].value:.4f}" for _, path in pairs)
        shares = [f"{statistics.mean(last(run, name) for run in runs.values()):.4f}" for name in ANSWERED]
        cells = [method, values, difference(pairs), difference(pairs, "cold_recall@10"), *shares]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def last(run: str, name: str) -> float:
    """The mean of what visitors did over a run's last steps."""
    logged = [json.loads(line) for line in (RUNS / run / "rl" / "metrics.jsonl").read_text().splitlines()]
    return statistics.mean([line[name] for line in logged if name in line][-LAST_STEPS:])


def machine(seed: int) -> str:
    folder = RUNS / f"market-{seed}" / "sft"
    about = json.loads((folder / "environment.json").read_text())
    threads = tomllib.loads((folder / "config.toml").read_text())["run"]["threads"]
    return f"{about['cpus']} CPU cores, {threads} in use, torch {about['packages']['torch']}."


def main() -> None:
    begun = sorted(int(path.name.removeprefix("market-")) for path in RUNS.glob("market-*"))
    # A seed counts where all of its three runs are measured; results can be written as they come.
    seeds = [seed for seed in begun if result(f"market-{seed}", "rl") and result(f"control-{seed}", "sft")]
    if not seeds:
        raise SystemExit("no seed below runs/ has all of its runs measured: bash examples/market/run.sh")
    settings = {
        "sparse": "Sparse clicks: `appeal = 0.2`, and the item that a visitor takes next is known (`reveal_next`)",
        "cold": "Cold items: those that came on sale late are four times as appealing (`cold_appeal = 4`)",
    }
    lines = [INTRODUCTION, machine(seeds[0]), "", *main_table(seeds), "", *differences(seeds), "", *stages(seeds), ""]
    for setting, title in settings.items():
        if any(RUNS.glob(f"{setting}-*")):
            lines += [f"## {title}", "", *setting_table(setting, seeds), ""]
    print("\n".join(lines).rstrip())


if __name__ == "__main__":
    main()
