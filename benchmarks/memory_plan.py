"""Memory that the planner predicts against what whole training steps take, in a fresh process for every size.

Measured is the rise of the resident set's peak over making a run and two optimiser steps, in a process that has warmed
up on a tiny model. Twice: once with glibc told to give back what is freed at once, which is what tensors take and what
the planner predicts, and once as it is, where freed pieces of other sizes lie between those in use.

python benchmarks/memory_plan.py [--quick] [--write FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from recrl.bench.memory import peak_of
from recrl.bench.world import WorldSize, history_of, make_config, make_rl, write_world
from recrl.hardware.memory import Engine, Memory, MicroBatch, Rollout, Share, step_memory
from recrl.hardware.model_shapes import ModelShape, shape_of
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl
from recrl.training.sft import Sft

ITEMS = 500
STEPS = 2
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
"""Pieces from 64 KiB up then have pages of their own (mallopt(3))."""
FED = 2
"""Tokens of a response that something is predicted from: SIDs have three."""


@dataclass(frozen=True)
class Case:
    """One size.

    Attributes:
        stage: ``rl`` or ``sft``.
        budget: tokens of a micro-batch.
        kl: a reference is held.
    """

    stage: str
    shape: str
    prompts: int
    prompt_tokens: int
    group: int
    budget: int = 32768
    kl: bool = False
    dtype: str = "float32"


FULL = (
    Case("rl", "5M", 8, 256, 16),
    Case("rl", "5M", 8, 256, 16, budget=300),
    Case("rl", "20M", 4, 512, 32),
    Case("rl", "20M", 4, 512, 32, kl=True),
    Case("rl", "50M", 2, 512, 16, dtype="bfloat16"),
    Case("rl", "100M", 2, 512, 8),
    Case("rl", "150M", 2, 256, 16, budget=300, kl=True),
    Case("sft", "5M", 8, 256, 4),
    Case("sft", "20M", 4, 512, 4),
    Case("sft", "50M", 4, 256, 4, budget=300),
    Case("sft", "100M", 2, 256, 4, dtype="bfloat16"),
    Case("sft", "150M", 2, 256, 4),
)
QUICK = (FULL[0], FULL[7])


@dataclass(frozen=True)
class Row:
    """Bytes of one case; ``resident`` is ``measured`` with what the allocator keeps."""

    case: Case
    parameters: int
    predicted: int
    measured: int
    resident: int
    moment: str

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


def train(case: Case, folder: Path) -> Rl | Sft:
    """A new run in an empty folder's world, after two optimiser steps."""
    threads = torch.get_num_threads()
    size = WorldSize(case.shape, case.prompts, history_of(case.prompt_tokens), ITEMS, case.group)
    sections: dict[str, dict[str, Any]] = {
        "backend": {"token_budget": case.budget, "dtype": case.dtype},
        "rl": {"objective": {"kind": "grpo", "kl_beta": 0.1 if case.kl else 0.0}},
        "sft": {"batch_size": case.prompts, "warmup_steps": 0},
    }
    config = make_config(folder, size, threads, **sections)
    if case.stage == "rl":
        rl = make_rl(config)
        for _ in range(STEPS):
            rl.step()
        return rl
    sft = Sft(config, StageFolder(config.folder / "sft"))
    rows = sft.rows.epoch(0)
    for _ in range(STEPS):
        sft.train_step(rows.select(sft.rows.batches(0, rows)[0]), 1e-4)
    return sft


def in_world(case: Case, task: Callable[[Path], object]) -> None:
    """Call with a folder that holds the case's data, SIDs and model."""
    with tempfile.TemporaryDirectory() as name:
        size = WorldSize(case.shape, case.prompts, history_of(case.prompt_tokens), ITEMS, case.group)
        write_world(Path(name), size, torch.get_num_threads())
        task(Path(name))


def measure(case: Case) -> dict[str, Any]:
    """Both figures of a case; runs in a process of its own."""
    torch.set_num_threads(1)
    warm = replace(case, shape="0.3M", prompts=2, prompt_tokens=30, group=4, budget=32768)
    in_world(warm, lambda folder: train(warm, folder))
    runs: list[Rl | Sft] = []
    peaks: list[int] = []
    in_world(case, lambda folder: peaks.append(peak_of(lambda: runs.append(train(case, folder)))))
    model = runs[0].policy.model
    planned = predict(case, shape_of(model.config.to_dict(), case.shape))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "predicted": planned.total, "moment": planned.moment, "peak": peaks[0]}


def predict(case: Case, shape: ModelShape) -> Memory:
    """What the planner says of a case."""
    engine = Engine.of("cpu", case.dtype)
    prompt = 1 + 3 * history_of(case.prompt_tokens)
    if case.stage == "sft":
        row = prompt + 3  # the target's tokens
        rows = min(case.prompts, max(1, case.budget // row))
        micro = MicroBatch(rows * row, rows * row, rows * 3, accumulates=rows < case.prompts)
        return step_memory(shape, engine, Share(), micro)
    each = prompt + case.group * FED
    prompts = min(case.prompts, max(1, case.budget // each))
    scored, accumulates = prompts * (1 + case.group * FED), prompts < case.prompts
    known = 0 if accumulates or case.dtype != "float32" else prompts * prompt  # as Rl.keeps_prompts
    micro = MicroBatch(prompts * each, scored, scored, accumulates, known)
    at_once = min(case.prompts, max(1, case.budget // (prompt + case.group)))
    rollout = Rollout(at_once, prompt, case.group, FED)
    return step_memory(shape, engine, Share(), micro, rollout=rollout, reference=case.kl)


def child(case: Case, environment: dict[str, str]) -> dict[str, Any]:
    """``measure`` in a fresh process."""
    words = [sys.executable, "-P", str(Path(__file__).resolve()), "--case", json.dumps(asdict(case))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | environment)
    if done.returncode:
        sys.exit(f"{case}: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run(case: Case) -> Row:
    """A case, measured twice."""
    need, resident = child(case, GIVE_BACK), child(case, {})["peak"]
    return Row(case, need["parameters"], need["predicted"], need["peak"], resident, need["moment"])


HEAD = (
    "stage", "model", "parameters", "arithmetic", "prompts x tokens", "G", "budget", "reference",
    "most held in", "predicted, MB", "measured, MB", "ratio", "as glibc keeps it, MB",
)  # fmt: skip


def line(row: Row) -> tuple[str, ...]:
    """A line of the table."""
    case = row.case
    return (
        case.stage, case.shape, f"{row.parameters:,}", case.dtype, f"{case.prompts} x {case.prompt_tokens}",
        str(case.group) if case.stage == "rl" else "", f"{case.budget:,}", "yes" if case.kl else "no",
        row.moment, f"{row.predicted / 1e6:.0f}", f"{row.measured / 1e6:.0f}", f"{row.ratio:.3f}",
        f"{row.resident / 1e6:.0f}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Two small cases.")
    parser.add_argument("--write", type=Path, help="Keep the table, for docs/hardware.md: benchmarks/memory_plan.json.")
    parser.add_argument("--case", help="One case as JSON, in this very process; prints JSON.")
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(Case(**json.loads(given.case)))))
        return
    for cells in (HEAD, ("---",) * len(HEAD)):
        print("| " + " | ".join(cells) + " |", flush=True)
    lines = [HEAD]
    for case in QUICK if given.quick else FULL:
        lines.append(line(run(case)))
        print("| " + " | ".join(lines[-1]) + " |", flush=True)
        if given.write:
            given.write.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
