"""Seconds of a beam search beside a memory and without one, in turns.

python benchmarks/memory_search.py [--items N] [--prompts B] [--beams W] [--repeats R] [--config FILE]

Without --config on a synthetic catalogue and an untrained model; --config names a run whose best SFT is there.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from recrl.bench.script import positive, refusals
from recrl.config import RunConfig, check, load
from recrl.data import dataset as datasets
from recrl.data.prepare import prepare
from recrl.errors import UserError
from recrl.parts import Choice
from recrl.ranking.rank import PromptTable
from recrl.rollout.beam import beam_search
from recrl.sids.build import SidPlan, build_folder
from recrl.training.rl import starting_point
from recrl.training.validation import Validation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=positive, default=3_000)
    parser.add_argument("--prompts", type=positive, default=64)
    parser.add_argument("--beams", type=positive, default=50)
    parser.add_argument("--repeats", type=positive, default=7)
    parser.add_argument("--config", type=Path)
    given = parser.parse_args()
    with refusals(), tempfile.TemporaryDirectory() as scratch:
        config = made(Path(scratch), given.items) if given.config is None else load(given.config)
        measure(config, given.prompts, given.beams, given.repeats)


def made(folder: Path, items: int) -> RunConfig:
    """Data, SIDs and a config whose model is an untrained one."""
    options = {"items": items, "users": 4 * items, "interactions": 40 * items, "optimum_rows": 0}
    prepare("synthetic", None, folder / "data", options=options)
    plan = SidPlan(Choice(kind="tfidf-svd"), Choice(kind="rq-kmeans"), 3, 64)
    build_folder(datasets.load(folder / "data"), plan, 0, folder / "sids")
    values = {
        "run": {"name": "bench", "dir": str(folder / "runs"), "threads": 1},
        "data": {"path": str(folder / "data")},
        "sid": {"path": str(folder / "sids"), "codebook_size": 64},
        "model": {"preset": "small"},
        "backend": {"dtype": "float32"},
        "memory": {"weight": 1.0},
        "rl": {"start": "base"},
    }
    return check(values, "bench")


def measure(config: RunConfig, count: int, beams: int, repeats: int) -> None:
    """Prints medians of searches that take turns."""
    world, policy = starting_point(config)
    table = PromptTable.without_targets(Validation.make(config, world).prompts)
    if count > len(table.ids):
        raise UserError(f"--prompts {count}", why=f"validation has {len(table.ids)}", fix="ask for fewer")
    prompts = table.batch(np.arange(count), world.device)
    memory = policy.memory
    if memory is None:
        raise UserError("memory.weight = 0", why="there is no memory to search beside", fix="name another config")
    if beams > len(world.dataset.catalog):
        raise UserError(f"--beams {beams}", why=f"there are {len(world.dataset.catalog)} items", fix="ask for fewer")
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    with torch.no_grad():
        for _ in range(repeats + 1):
            for name, used in (("without", None), ("with", memory)):
                policy.memory = used
                start = time.perf_counter()
                beam_search(policy, world.trie, prompts, beams)
                seconds[name].append(time.perf_counter() - start)
    without, beside = (statistics.median(seconds[name][1:]) for name in ("without", "with"))  # the first warms up
    nodes = len(world.trie.count)
    print(f"{len(world.dataset.catalog):,} items, {nodes:,} trie nodes, {count} prompts, {beams} beams")
    print(f"without {without:.4f} s, with {beside:.4f} s: {beside / without:.2f}x")


if __name__ == "__main__":
    main()
