"""What every quantiser loses of an embedding, and how many items then share a path.

python benchmarks/quantizers.py [--data FOLDER ...] [--encoders KIND ...] [--quantizers KIND ...] [--seeds N]

Without --data on a synthetic catalogue. A row is printed as it is measured; --codes sets the size of a codebook.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import product
from pathlib import Path

from recrl.bench.script import positive, refusals
from recrl.data import dataset as datasets
from recrl.data.prepare import prepare
from recrl.parts import Choice
from recrl.sids.build import SidPlan, build
from recrl.sids.encoders import ENCODERS
from recrl.sids.quantizers import QUANTIZERS

LEVELS = 3


def main() -> None:
    fitted = [kind for kind in QUANTIZERS if kind != "given"]
    alone = [kind for kind in ENCODERS if kind != "hf"]  # which wants a folder
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--encoders", nargs="+", choices=alone, default=["fused", "tfidf-svd"])
    parser.add_argument("--quantizers", nargs="+", choices=fitted, default=fitted)
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--codes", type=positive, default=256)
    given = parser.parse_args()
    with refusals(), tempfile.TemporaryDirectory() as scratch:
        found = [datasets.load(folder) for folder in given.data or [made(Path(scratch) / "synthetic")]]
        names = [folder.name for folder in given.data] or ["synthetic"]
        print(f"{LEVELS} codebooks of {given.codes}, {given.seeds} seeds\n")
        print("| data | items | encoder | quantiser | lost variance | items on a shared path | s a build |")
        print("|---|---|---|---|---|---|---|")
        for name, dataset in zip(names, found, strict=True):
            for encoder, quantizer in product(given.encoders, given.quantizers):
                plan = SidPlan(Choice(kind=encoder), Choice(kind=quantizer), LEVELS, given.codes)
                what = f"| {name} | {len(dataset.catalog):,} | {encoder} | {quantizer} "
                print(what + measure(dataset, plan, given.seeds), flush=True)


def made(folder: Path) -> Path:
    """A small synthetic data set."""
    options = {"items": 1_000, "users": 4_000, "interactions": 40_000, "optimum_rows": 0}
    prepare("synthetic", None, folder, options=options)
    return folder


def measure(dataset: datasets.Dataset, plan: SidPlan, seeds: int) -> str:
    """The last three columns of a row, seed by seed."""
    start = time.perf_counter()
    found = [build(dataset, plan, seed)[0].meta["statistics"] for seed in range(seeds)]
    seconds = (time.perf_counter() - start) / seeds
    lost = ", ".join(f"{one['reconstruction_error']:.3f}" for one in found)
    shared = ", ".join(f"{one['shared_items'] / one['items']:.1%}" for one in found)
    return f"| {lost} | {shared} | {seconds:.0f} |"


if __name__ == "__main__":
    main()
