"""Seconds and peak memory of ``hybrid_knn`` on a synthetic catalogue: loaded, fitted, and asked about 1,000 histories.

python benchmarks/knn_scale.py [--items N] [--interactions N] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from recrl.baselines import BASELINES
from recrl.bench.script import refusals
from recrl.data.dataset import load
from recrl.data.prepare import prepare
from recrl.data.rows import evenly
from recrl.parts import Choice, resolve

HISTORIES = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, help="The data set, made if it is not there; default: a temporary folder.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.data or Path(scratch) / "data"
        if not folder.is_dir():
            child = get_context("spawn").Process(target=make, args=(folder, given.items, given.interactions))
            child.start()  # a process of its own: its memory is none of the scorer's
            child.join()
            if child.exitcode:
                sys.exit(child.exitcode)
        with refusals():
            print(json.dumps(measure(folder)))


def make(folder: Path, items: int, interactions: int) -> None:
    """Writes a synthetic data set of so many items."""
    users = interactions // 10
    options = {"items": items, "interactions": interactions, "users": users, "categories": 48, "groups": 16}
    with refusals():
        prepare("synthetic", None, folder, options=options | {"optimum_rows": 0})


def measure(folder: Path) -> dict[str, float]:
    """Seconds of every stage, and the largest memory of this process in GiB."""
    clock = [time.perf_counter()]
    dataset = load(folder)
    clock.append(time.perf_counter())
    loaded_gib = peak_gib()
    part, options = resolve(BASELINES, Choice(kind="hybrid_knn"), where="hybrid_knn")
    scorer = part.run(dataset.train, dataset.catalog, options)
    clock.append(time.perf_counter())
    scorer.sparse_scores(dataset.test.history.select(evenly(len(dataset.test.history), HISTORIES)))
    clock.append(time.perf_counter())
    seconds = dict(zip(("load_s", "fit_s", "score_s"), np.diff(clock).round(1).tolist(), strict=True))
    counts = {"items": len(dataset.catalog), "training_interactions": len(dataset.train.items.values)}
    return counts | seconds | {"loaded_gib": round(loaded_gib, 2), "peak_gib": round(peak_gib(), 2)}


def peak_gib() -> float:
    """The process's largest memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB


if __name__ == "__main__":
    main()
