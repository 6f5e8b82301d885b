"""AdamW, the learning-rate schedule, the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from recrl.backends.ranks import BUCKET_BYTES, Ranks, buckets, local
from recrl.errors import RunError
from recrl.models.tensors import ReadTensor

MOMENTS = ("exp_avg", "exp_avg_sq")


class Shards(Protocol):
    """A policy as the optimiser sees it: its parameters, and how they become those of the whole model."""

    @property
    def replicated(self) -> bool: ...

    def finish_gradients(self) -> None: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def gradient_norm(self) -> Tensor: ...

    def whole(self, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]: ...

    def parts(self, read: ReadTensor) -> Iterator[tuple[str, Tensor]]: ...


class AdamW:
    """AdamW over a policy's parameters; matrices decay, vectors (norms, biases) do not.

    Every copy of the model keeps the moments of the parameters that it owns, steps these, and sends them to the other
    copies (ZeRO, stage 1, arXiv:1910.02054). ``faster`` has factors of the learning rate by the beginnings of
    parameters' names. The numbers are those of one copy that steps them all. Where the copies
    share out the weights themselves, each owns its part of all of them.
    """

    def __init__(
        self,
        policy: Shards,
        ranks: Ranks,
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        faster: Mapping[str, float] | None = None,
    ) -> None:
        self.steps = 0
        self._policy = policy
        self._ranks = ranks
        self._trained = {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}
        sizes = [weight.numel() for weight in self._trained.values()]
        self._copies = ranks.data_size if policy.replicated else 1
        self._own = ranks.data_rank if policy.replicated else 0
        self._owner = dict(zip(self._trained, owners(sizes, self._copies), strict=True))
        groups: list[dict[str, Any]] = [
            {"params": [], "weight_decay": decay, "times_lr": times}
            for times in (1.0, *dict.fromkeys((faster or {}).values()))
            for decay in (weight_decay, 0.0)
        ]
        for name, weight in self._trained.items():
            if self._owner[name] == self._own:
                times = next((times for prefix, times in (faster or {}).items() if name.startswith(prefix)), 1.0)
                kinds = [group for group in groups if group["times_lr"] == times]
                kinds[0 if weight.dim() >= 2 else 1]["params"].append(weight)
        self._inner = torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """What this rank steps, as torch has it."""
        groups: list[dict[str, Any]] = self._inner.param_groups
        return groups

    def set_lr(self, lr: float) -> None:
        for group in self.param_groups:
            group["lr"] = lr * group["times_lr"]

    def add_gradients(self) -> None:
        """Add up what all ranks have; zeros where this rank's part of the batch gave nothing."""
        for weight in self._trained.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        if self._copies > 1:
            self._ranks.all_reduce_many([weight.grad for weight in self._trained.values() if weight.grad is not None])
        self._policy.finish_gradients()

    def clip(self, max_norm: float, step: int) -> float:
        """Scale the gradient down to ``max_norm``; the norm that it had.

        Raises:
            RunError: it is not finite, so the next step would ruin the weights.
        """
        total = self._policy.gradient_norm()
        scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([local(weight.grad) for weight in self._trained.values() if weight.grad is not None], scale)
        norm = float(total)
        if not math.isfinite(norm):
            raise RunError(
                f"the gradient's norm is {norm} at step {step}",
                why="an optimiser step with it would ruin the weights",
                fix="lower the learning rate or use float32, and go on from the last checkpoint",
            )
        return norm

    @torch.no_grad()
    def step(self) -> None:
        self._inner.step()
        self.steps += 1
        if self._copies > 1:
            self._share_weights()

    def _share_weights(self) -> None:
        for owner in range(self._copies):
            weights = [weight.data for name, weight in self._trained.items() if self._owner[name] == owner]
            for bucket in buckets(weights, BUCKET_BYTES):
                flat = torch.cat([weight.flatten() for weight in bucket])
                self._ranks.broadcast(flat, owner)
                for weight, new in zip(bucket, flat.split([weight.numel() for weight in bucket]), strict=True):
                    weight.copy_(new.view_as(weight))

    def zero_grad(self) -> None:
        for weight in self._trained.values():
            weight.grad = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The moments of the whole model under their Hugging Face names, one at a time; all ranks ask together.

        Ranks of other copies than the first help and are given nothing. A parameter that has never had a gradient has
        moments of 0, which is what it would start with.
        """
        if not self.steps:
            return
        for name, weight in self._trained.items():
            for key in MOMENTS:
                value = self._inner.state.get(weight, {}).get(key)
                value = torch.zeros_like(weight) if value is None else value
                if self._copies > 1:
                    self._ranks.broadcast(value, self._owner[name])
                if takes_part(self._policy, self._ranks):
                    for found, tensor in self._policy.whole({name: value}):
                        yield f"optimizer.{key}.{found}", tensor

    def restore(self, read: ReadTensor, steps: int) -> None:
        """Put back what ``tensors`` gave, on whatever number of ranks."""
        self.steps = steps
        self._inner.state.clear()
        if not steps:
            return
        for key in MOMENTS:
            for name, value in self._policy.parts(lambda found, key=key: read(f"optimizer.{key}.{found}")):  # type: ignore[misc]
                if name in self._trained and self._owner[name] == self._own:
                    weight = self._trained[name]
                    state = self._inner.state[weight]
                    state["step"] = torch.tensor(float(steps), device=weight.device)
                    state[key] = torch.zeros_like(weight, requires_grad=False)
                    local(state[key]).copy_(value)


def takes_part(policy: Shards, ranks: Ranks) -> bool:
    """Whether this rank has a part of what a checkpoint holds; others hold the same as the first copy."""
    return ranks.data_rank == 0 or not policy.replicated


def owners(sizes: list[int], ranks: int) -> list[int]:
    """Which rank owns each of several things: the largest first, always to the one that has least."""
    held = [0] * ranks
    owner = [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        owner[place] = held.index(min(held))
        held[owner[place]] += sizes[place]
    return owner


def cosine_lr(step: int, *, steps: int, warmup_steps: int, lr: float, lr_final: float) -> float:
    """Learning rate of optimiser step ``step`` (from 0): linear up, then a cosine down to ``lr_final`` at ``steps``."""
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return lr_final + (lr - lr_final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@torch.no_grad()
def average_into(average: Iterable[nn.Parameter], weights: Iterable[nn.Parameter], *, decay: float, step: int) -> None:
    """Move the average towards the weights; early steps move it faster, so that it forgets where it started."""
    now = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_([local(tensor) for tensor in average], [local(tensor) for tensor in weights], 1 - now)
