"""Write RESULTS.md from what the runs left on disk: ``python results.py runs/toys runs/beauty > RESULTS.md``."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

from recrl.evaluation.results import EvaluationResult, compare_pairs, load_results

INTRODUCTION = """# Results

Written by `results.py` from the files of the runs that `make example-toys` does. Leave-one-out, full ranking over the
catalogue, history of 20 items, from scratch, no pretrained weights. Nothing of the history is removed, but for the rows
named `-new`, whose lists leave out what the history holds: nobody reviews an item twice. In brackets 95 % bootstrap
intervals over users. Both data sets use `toys.toml`; only the paths and the number of threads differ.
"""
COLUMNS = ("hr@5", "hr@10", "ndcg@5", "ndcg@10", "cold_recall@10", "entropy_bits@10", "coverage@10")


def table(results: list[EvaluationResult], split: str) -> list[str]:
    """Rows of one split, each value with its 95 % interval where it has one."""
    lines = ["| " + " | ".join([split, *COLUMNS]) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    return lines + [
        "| " + " | ".join([result.name, *(cell(result, name) for name in COLUMNS)]) + " |"
        for result in results
        if result.split == split
    ]


def cell(result: EvaluationResult, name: str) -> str:
    metric = result.metrics.get(name)
    if metric is None:
        return "-"
    interval = "" if metric.low is None else f" ({metric.low:.4f} to {metric.high:.4f})"
    return f"{metric.value:.4f}{interval}"


def stages(run: Path) -> list[str]:
    """What each stage says of itself."""
    lines = []
    for name in ("sft", "rl"):
        path = run / name / "status.json"
        if path.is_file():
            status = json.loads(path.read_text())
            lines.append(
                f"- {name}: {status['state']} ({status['reason']}) after {status['seconds'] / 60:.1f} minutes; best "
                f"validation NDCG@10 {status['best_value']:.4f} at step {status['best_step']}"
            )
    return lines


def section(run: Path) -> list[str]:
    config = tomllib.loads((run / "sft" / "config.toml").read_text())
    environment = json.loads((run / "sft" / "environment.json").read_text())
    results = load_results(run / "evaluation")
    lines = [f"## {run.name}, seed {config['run']['seed']}", ""]
    torch, threads = environment["packages"]["torch"], config["run"]["threads"]
    lines += [f"{environment['cpus']} CPU cores, {threads} in use, torch {torch}.", "", *stages(run), ""]
    for split in ("test", "valid"):
        if any(result.split == split for result in results):
            lines += [*table(results, split), ""]
    pairs = compare_pairs(run / "evaluation" / "sft-test.json", run / "evaluation" / "rl-test.json")
    if pairs:
        found = pairs["ndcg@10"]
        lines += [
            f"RL minus SFT, test NDCG@10, same users: {found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f}).",
            "",
        ]
    return lines


def main() -> None:
    print(INTRODUCTION)
    for run in map(Path, sys.argv[1:]):
        if (run / "evaluation").is_dir():
            print("\n".join(section(run)))


if __name__ == "__main__":
    main()
