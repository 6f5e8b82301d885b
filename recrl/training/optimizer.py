"""AdamW, the learning-rate schedule, the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from recrl.errors import RunError


def adamw(model: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors (norms, biases) do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.dim() >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def cosine_lr(step: int, *, steps: int, warmup_steps: int, lr: float, lr_final: float) -> float:
    """Learning rate of optimiser step ``step`` (from 0): linear up, then a cosine down to ``lr_final`` at ``steps``."""
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return lr_final + (lr - lr_final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def clip(parameters: Iterable[nn.Parameter], max_norm: float, step: int) -> float:
    """Scale the gradient down to ``max_norm``; the norm that it had.

    Raises:
        RunError: it is not finite, so the next step would ruin the weights.
    """
    norm = float(nn.utils.clip_grad_norm_(parameters, max_norm))
    if not math.isfinite(norm):
        raise RunError(
            f"the gradient's norm is {norm} at step {step}",
            why="an optimiser step with it would ruin the weights",
            fix="lower the learning rate or use float32, and go on from the last checkpoint",
        )
    return norm


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


@torch.no_grad()
def average_into(average: nn.Module, model: nn.Module, *, decay: float, step: int) -> None:
    """Move the average towards the weights; early steps move it faster, so that it forgets where it started."""
    now = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - now)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[Tensor, str]) -> dict[str, Tensor]:
    """The optimiser's state as named tensors."""
    return {
        f"optimizer.{key}.{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, names: dict[Tensor, str], tensors: dict[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` gave."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                key: tensors[f"optimizer.{key}.{names[parameter]}"].to(parameter.device, copy=True)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"optimizer.{key}.{names[parameter]}" in tensors
            }
