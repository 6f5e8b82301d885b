"""The decoder's elementwise ops on CPU: plain torch against the compiled kernels, in turn, one process.

Each op alone, forward and backward; then a whole training step of a small Qwen3, stock against fused.
Letters: T tokens, H hidden size, I intermediate size.

python benchmarks/elementwise.py [--threads N] [--repeats N] [--clock wall|cpu]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from recrl.kernels.ops import Ops
from recrl.kernels.registry import load, pick
from recrl.kernels.shared_prefix_attention.rows import PrefixRows
from recrl.models.checkpoint import use_layouts
from recrl.models.fused import OPS, fuse
from recrl.models.presets import preset_model
from recrl.models.shared_prefix import Packed

TOKENS = 2500
HEADS = 4
VOCABULARY = 1100
SIZES = ((128, 384), (256, 768))  # H and I
DTYPES = (torch.float32, torch.bfloat16)
EPS = 1e-6
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a machine that others use as well.")
    given = parser.parse_args()
    clock = CLOCKS[given.clock]
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    # glibc gives freed memory back to the system until it has seen a larger tensor go. A training step frees such at
    # once; without one here, half of an op's time would be the system handing out the same pages again.
    torch.ones(7 << 20).sum()
    native = {op: pick(op, "cpu", "native") for op in OPS}
    reference = {op: load(op, "reference") for op in OPS}
    for setting, name, arguments in op_cases():
        runs = {
            "reference": op_pass(getattr(reference[name], name), arguments),
            "native": op_pass(getattr(native[name], name), arguments),
        }
        print(json.dumps({"op": name} | setting | compared(runs, given.repeats, clock)), flush=True)
    for dtype in DTYPES:
        runs = {"stock": step_of(None, dtype), "fused": step_of(native, dtype)}
        setting = {"step": "forward and backward", "T": TOKENS, "H": SIZES[0][0], "dtype": str(dtype)}
        print(json.dumps(setting | compared(runs, given.repeats, clock)), flush=True)


def op_cases() -> Iterator[tuple[dict[str, object], str, list[Tensor | float]]]:
    """Setting, name and arguments of every op."""
    for dtype in DTYPES:
        for hidden, intermediate in SIZES:
            size = hidden // HEADS
            angle = torch.rand(1, TOKENS, size) * 6
            setting: dict[str, object] = {"T": TOKENS, "H": hidden, "I": intermediate, "dtype": str(dtype)}
            yield setting, "rms_norm", [leaf(dtype, TOKENS, hidden), leaf(torch.float32, hidden), EPS]
            yield setting, "swiglu", [leaf(dtype, TOKENS, intermediate), leaf(dtype, TOKENS, intermediate)]
            heads = leaf(dtype, 1, TOKENS, HEADS, size)
            yield setting, "norm_rotary", [heads, leaf(torch.float32, size), angle.cos(), angle.sin(), EPS]


def leaf(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape).to(dtype).requires_grad_()


def op_pass(op: Callable[..., Tensor], arguments: list[Tensor | float]) -> Callable[[], None]:
    """One forward and backward pass of an op."""
    wanted = [value for value in arguments if isinstance(value, Tensor) and value.requires_grad]
    gradient = torch.randn_like(op(*arguments))

    def run() -> None:
        torch.autograd.grad(op(*arguments), wanted, gradient)

    return run


def step_of(kernels: dict[str, ModuleType] | None, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward of a small Qwen3 over rows of 50 tokens, all of them scored."""
    hidden, intermediate = SIZES[0]
    shape: dict[str, int | float | bool] = {"hidden_size": hidden, "intermediate_size": intermediate}
    model: PreTrainedModel = preset_model("small", shape, VOCABULARY, 0).train()
    use_layouts(model)
    if kernels is not None:
        fuse(model, kernels)
    layout = Packed(PrefixRows.alone(torch.full((TOKENS // 50,), 50)), Ops.pick("cpu"), reads_all=True)
    ids = torch.randint(0, VOCABULARY, (1, TOKENS))
    positions = layout.rows.positions[None]

    def run() -> None:
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            states = model.model(ids, position_ids=positions, use_cache=False, layout=layout).last_hidden_state
            logits = states[0] @ model.get_output_embeddings().weight.t()
        F.cross_entropy(logits.float(), ids[0]).backward()

    return run


def compared(runs: dict[str, Callable[[], None]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median milliseconds of two ways, run in turn after two rounds to warm up, and the first's over the second's."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 2):
        for name, run in runs.items():
            begin = clock()
            run()
            times[name].append((clock() - begin) * 1e3)
    medians = {f"{name}_ms": round(statistics.median(values[2:]), 3) for name, values in times.items()}
    slow, fast = medians.values()
    return medians | {"ratio": round(slow / fast, 2)}


if __name__ == "__main__":
    main()
