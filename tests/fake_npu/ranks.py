"""One rank of several, each with its own device: every collective, then SFT and RL.

``torchrun ranks.py WORLD FOLDER ENGINE`` leaves runs below FOLDER, and the answers of collectives in ``ranks.json``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fake_npu import scenario
from runs import silent
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from recrl.backends.ranks import join, leave
from recrl.device.runtime import local_device
from recrl.training.rl import train_rl
from recrl.training.sft import train_sft

device = local_device("npu", int(os.environ["LOCAL_RANK"]))
ranks = join(device)
here = float(ranks.rank + 1)


def own(*shape: int) -> torch.Tensor:
    return torch.full(shape, here, device=device)


def broadcast() -> list[float]:
    tensor = own(2)
    ranks.broadcast(tensor, 1)
    return tensor.tolist()


def gathered() -> list[float]:
    out = torch.empty(2 * ranks.size, device=device)
    dist.all_gather_into_tensor(out, own(2))
    return out.tolist()


def scattered() -> list[float]:
    out = torch.empty(1, device=device)
    dist.reduce_scatter_tensor(out, own(ranks.size))
    return out.tolist()


def averaged_gradient() -> list[Any]:
    """Of DistributedDataParallel; and where it lies."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(2, 1, bias=False).to(device), device_ids=[device.index])
    model(own(1, 2)).sum().backward()
    gradient = model.module.weight.grad
    return [gradient.device.type, gradient.flatten().tolist()]


def on_host() -> str:
    try:
        dist.all_reduce(torch.ones(1))
    except RuntimeError as error:
        return str(error)
    return "taken"


CHECKS: dict[str, Callable[[], Any]] = {
    "device": lambda: ranks.all_gather(str(device)),
    "backend": lambda: dist.get_backend(),
    "sum": lambda: ranks.all_reduce(own(3)).tolist(),
    "broadcast": broadcast,
    "gathered": gathered,
    "scattered": scattered,
    "gradient": averaged_gradient,
    "host": on_host,
}

if __name__ == "__main__":
    sys.modules["triton"] = None  # type: ignore[assignment]  # a machine without it, as its launcher's
    world, folder, engine = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    backend = {"engine": engine, "tensor_parallel": ranks.size if engine == "megatron" else 1}
    answers = {name: check() for name, check in CHECKS.items()}
    if ranks.is_first:
        (folder / "ranks.json").write_text(json.dumps(answers))
    train_sft(scenario.sft_config(world, folder, "npu", **backend), silent)
    train_rl(scenario.rl_config(world, folder, "npu", "slates", scenario.SLATES, **backend), silent)
    leave()
