"""Seconds and peak memory of a synthetic data set of 10 million interactions, written to disk.

python benchmarks/data_scale.py [--interactions N] [--split leave-one-out|chronological] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from recrl.data.prepare import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--split", choices=("leave-one-out", "chronological"), default="leave-one-out")
    parser.add_argument("--out", type=Path, help="Keep the data set here; default: a temporary folder.")
    given = parser.parse_args()
    options = {
        "users": given.interactions // 10,
        "items": max(500, given.interactions // 100),
        "interactions": given.interactions,
        "categories": 48,
        "groups": 16,
    }
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        meta = prepare("synthetic", None, given.out or Path(scratch) / "data", split=given.split, options=options)
        total_s = time.perf_counter() - start
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB
    seconds = {name: round(value, 2) for name, value in meta["summary"]["seconds"].items()}
    print(
        json.dumps(
            {"options": options, "seconds": seconds, "total_s": round(total_s, 2), "peak_gib": round(peak_gib, 2)}
        )
    )


if __name__ == "__main__":
    main()
