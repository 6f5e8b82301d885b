"""Seconds and peak memory of a quantiser on random vectors.

python benchmarks/sid_scale.py [--quantizer rq-kmeans|balanced|rq-vae] [--items N] [--dim D] [--levels L] [--codes K]
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from recrl.parts import Choice
from recrl.sids.codes import with_suffixes
from recrl.sids.quantizers import QUANTIZERS, resolve_quantizer
from recrl.sids.statistics import statistics
from recrl.sids.threads import one_thread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantizer", choices=[kind for kind in QUANTIZERS if kind != "given"], default="rq-kmeans")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    points = np.random.default_rng(given.seed).standard_normal((given.items, given.dim), dtype=np.float32)
    quantizer, options = resolve_quantizer(Choice(kind=given.quantizer), where="--quantizer")
    sizes = (given.codes,) * given.levels
    start = time.perf_counter()
    with one_thread():  # as in a build
        quantized = quantizer.run(points, sizes, options, given.seed)
    seconds = time.perf_counter() - start
    figures = statistics(with_suffixes(quantized.codes, sizes), [""] * len(points), points, quantized.reconstruction)
    smallest = [int(np.bincount(column, minlength=given.codes).min()) for column in quantized.codes.T]
    largest = [int(np.bincount(column, minlength=given.codes).max()) for column in quantized.codes.T]
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB
    report = vars(given) | {"seconds": round(seconds, 1), "peak_gib": round(peak_gib, 2)}
    report |= {"smallest": smallest, "largest": largest}
    report |= {key: figures[key] for key in ("unique_paths", "largest_cluster", "reconstruction_error")}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
