"""Seconds and peak memory of log-probabilities, forward and backward: a kernel beside the reference, in one run.

python benchmarks/linear_logp.py [--tokens T] [--vocabulary V] [--hidden H] [--legal C] [--dtype float32|bfloat16]
                                 [--threads N] [--repeats R] [--kernel NAME]

Seconds are medians of runs that take turns. MiB is how far a run raises the resident memory of a fresh process above
its inputs, gradients included; read from /proc, so this needs Linux. --legal C measures legal_logp, --vocabulary then
being the rows that are legal anywhere.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from recrl.kernels.registry import load

Result = TypeVar("Result")
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--legal", type=int, default=0, help="Legal continuations of a token; default: the vocabulary.")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kernel", default="chunked")
    given = parser.parse_args()
    names = ("reference", given.kernel)
    seconds = _in_a_child(_seconds, given, names)
    mib = [_in_a_child(_peak_mib, given, name) for name in names]
    op = f"legal_logp, {given.legal} legal" if given.legal else "linear_logp"
    print(f"{op}: T {given.tokens}, V {given.vocabulary}, H {given.hidden}, {given.dtype}, {given.threads} threads")
    print(f"{'':<12}{'wall s':>10}{'CPU s':>10}{'MiB':>10}")
    rows = [(*pair, peak) for pair, peak in zip(seconds, mib, strict=True)]
    for name, (wall_s, cpu_s, peak) in zip(names, rows, strict=True):
        print(f"{name:<12}{wall_s:>10.4f}{cpu_s:>10.4f}{peak:>10.1f}")
    ratios = [ours / theirs for theirs, ours in zip(*rows, strict=True)]
    print(f"{'ratio':<12}" + "".join(f"{ratio:>10.3f}" for ratio in ratios))


def _in_a_child(measure: Callable[..., Result], *arguments: object) -> Result:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def _inputs(given: argparse.Namespace, tokens: int) -> tuple[Tensor, ...]:
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, given.dtype)
    hidden = torch.randn(tokens, given.hidden, dtype=dtype).requires_grad_()
    weight = torch.randn(given.vocabulary, given.hidden, dtype=dtype).mul_(0.05).requires_grad_()
    if not given.legal:
        return hidden, weight, torch.randint(given.vocabulary, (tokens,))
    legal = torch.rand(tokens, given.vocabulary).topk(given.legal).indices
    return hidden, weight, legal[:, 0], legal, torch.ones_like(legal, dtype=torch.bool)


def _run(name: str, inputs: tuple[Tensor, ...]) -> tuple[float, float]:
    """Wall and CPU seconds of a forward and a backward pass."""
    module = load("linear_logp", name)
    op = module.legal_logp if len(inputs) > 3 else module.linear_logp
    upstream = torch.linspace(-1, 1, len(inputs[0]))
    wall, cpu = time.perf_counter(), time.process_time()
    op(*inputs)[0].backward(upstream)
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    inputs[0].grad = inputs[1].grad = None
    return seconds


def _seconds(given: argparse.Namespace, names: tuple[str, ...]) -> list[tuple[float, float]]:
    """Medians of wall and CPU seconds of every kernel."""
    inputs = _inputs(given, given.tokens)
    for name in names:
        _run(name, inputs)  # libraries set themselves up
    runs = [[_run(name, inputs) for name in names] for _ in range(given.repeats)]
    wall, cpu = ([statistics.median(run[k][which] for run in runs) for k in range(len(names))] for which in (0, 1))
    return list(zip(wall, cpu, strict=True))


def _peak_mib(given: argparse.Namespace, name: str) -> float:
    """Highest resident memory of one run above that before it."""
    _run(name, _inputs(given, 1))  # what libraries hold for good is not the kernel's
    inputs = _inputs(given, given.tokens)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _resident_mib("VmRSS")
    _run(name, inputs)
    return _resident_mib("VmHWM") - before


def _resident_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / MIB


if __name__ == "__main__":
    main()
