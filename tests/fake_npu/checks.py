"""What the fake device does and refuses; ``python -m fake_npu.checks`` prints each answer, or the error, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.utils.checkpoint import checkpoint

from recrl.device.runtime import autocast, choose_device, distributed_backend, local_device, peak_memory_gb
from recrl.errors import UserError

NPU = torch.device("npu")
ops = torch.ops.fake_npu


def here(*shape: int) -> Tensor:
    return torch.ones(*shape, device=NPU)


def random_numbers(device: str) -> list[float]:
    torch.manual_seed(3)
    return [*torch.rand(2, device=device).tolist(), *torch.randn(2, device=device).tolist()]


def drawn_again() -> bool:
    """A state that is put back gives the same numbers, and the CPU's is another."""
    state = torch.npu.get_rng_state()
    torch.rand(3)
    first = torch.rand(4, device=NPU)
    torch.npu.set_rng_state(state)
    return torch.equal(first, torch.rand(4, device=NPU))


def dropped_alike_when_recomputed() -> bool:
    """Activation checkpointing draws the same dropout twice."""
    states = here(64).requires_grad_()
    out = checkpoint(lambda own: dropout(own, 0.5) * 1, states, use_reentrant=False)
    out.sum().backward()
    return torch.equal(out.detach(), states.grad)


def memory() -> list[int]:
    torch.accelerator.reset_peak_memory_stats()
    before = torch.accelerator.memory_allocated()
    kept = here(1000)
    big = here(100_000)
    del big
    held, peak = torch.accelerator.memory_allocated(), torch.accelerator.max_memory_allocated()
    del kept
    return [held - before, peak - before, torch.accelerator.memory_allocated() - before]


def reported_peak() -> float:
    torch.accelerator.reset_peak_memory_stats()
    here(250_000_000 // 4)
    return peak_memory_gb(NPU)


def reported_peak_of_older_torch() -> float:
    """As before torch 2.9, where the device's own module alone counts."""
    kept = torch.accelerator.max_memory_allocated
    del torch.accelerator.max_memory_allocated
    try:
        return reported_peak()
    finally:
        torch.accelerator.max_memory_allocated = kept


def out_of_memory() -> str:
    """The error's type; the device works on afterwards."""
    ops.limit_memory(1 << 20)
    try:
        here(1 << 20)
    except torch.OutOfMemoryError as error:
        here(100)
        return str(error).split(".")[0]
    finally:
        ops.limit_memory(64 << 30)
    return "had room"


def tied() -> list[bool]:
    """Whether parameters stay themselves, and tied ones tied, when a module moves."""
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    weight = first.weight
    nn.ModuleList([first, second]).to(NPU)
    return [first.weight is weight, second.weight is weight, weight.device.type == "npu"]


def strided() -> list[list[float]]:
    """An op in place on a view changes the view alone."""
    grid = torch.zeros(3, 4, device=NPU)
    grid[:, 1:3].masked_fill_(torch.eye(3, 2, device=NPU).bool(), 5.0)
    return grid.tolist()


def timed() -> bool:
    stream = torch.Stream("npu")
    begin, end = (torch.Event("npu", enable_timing=True) for _ in range(2))
    with stream:
        begin.record(stream)
        here(3)
        end.record(stream)
    torch.accelerator.current_stream().wait_stream(stream)
    torch.accelerator.synchronize()
    return begin.elapsed_time(end) >= 0


def autocasted() -> list[str]:
    with autocast(NPU, "bfloat16"):
        low = here(2, 2) @ here(2, 2)
    with autocast(NPU, "float32"):
        full = here(2, 2) @ here(2, 2)
    return [str(low.dtype), str(full.dtype)]


def fallbacks() -> int:
    before = dict(ops.fallbacks()).get("aten::mm.out", 0)
    here(2, 2) @ here(2, 2)
    return int(ops.fallbacks()["aten::mm.out"]) - before


def local() -> list[str]:
    found = [str(local_device(wanted, rank)) for wanted, rank in (("npu", 0), ("auto", 1), ("npu:1", 0))]
    current = torch.accelerator.current_device_index()
    torch.accelerator.set_device_index(0)
    return [*found, f"current {current}"]


CHECKS: dict[str, Callable[[], Any]] = {
    "add": lambda: here(3) + torch.ones(3),
    "matmul": lambda: here(3, 3) @ torch.ones(3, 3),
    "index": lambda: here(3)[torch.tensor([0, 1])],
    "index_put": lambda: here(3).index_put_((torch.tensor([0]),), here(1)),
    "cat": lambda: torch.cat([here(3), torch.ones(3)]),
    "stack": lambda: torch.stack([here(3).sum(), torch.tensor(1.0)]),
    "scatter": lambda: here(3).scatter_add_(0, torch.zeros(3, dtype=torch.long), here(3)),
    "two devices": lambda: here(3) + torch.ones(3, device="npu:1"),
    "generator of another": lambda: torch.rand(2, device=NPU, generator=torch.Generator()),
    "numpy": lambda: here(3).numpy(),
    "third device": lambda: torch.ones(1, device="npu:2"),
    "number": lambda: (here(2) * 2.5).tolist(),
    "copy": lambda: here(2).copy_(torch.tensor([1.0, 2.0])).cpu().tolist(),
    "auto": lambda: str(choose_device("auto")),
    "chosen": lambda: str(choose_device("npu:1")),
    "not there": lambda: choose_device("npu:2"),
    "collectives": lambda: distributed_backend(NPU),
    "local": local,
    "one rank too many": lambda: local_device("npu", 2),
    "random": lambda: random_numbers("npu") == random_numbers("cpu"),
    "own generator": lambda: torch.rand(1, device=NPU, generator=torch.Generator(NPU).manual_seed(3)).item(),
    "state": drawn_again,
    "recomputed": dropped_alike_when_recomputed,
    "memory": memory,
    "reported peak": reported_peak,
    "reported peak of older torch": reported_peak_of_older_torch,
    "out of memory": out_of_memory,
    "tied": tied,
    "strided": strided,
    "timed": timed,
    "autocast": autocasted,
    "fallbacks": fallbacks,
}


def answer(check: Callable[[], Any]) -> Any:
    try:
        return check()
    except (RuntimeError, TypeError, UserError) as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    print(json.dumps({name: answer(check) for name, check in CHECKS.items()}, default=str))
