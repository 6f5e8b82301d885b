"""How often a step makes the host wait for the device: no more often for more micro-batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import run_config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recrl.groups.packed import PackedGroups, pack_active
from recrl.groups.rollout import Signal
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl

# As where the device is not the host's own: ops in C read the host's memory and are not seen here.
KERNELS = {"linear_logp": "reference", "shared_prefix_attention": "padded"}
FETCHES = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"}
"""Operations whose result, or the size of it, the host has to know."""


class Waits(TorchDispatchMode):
    """Counts what would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        unknown_size = func is torch.ops.aten.repeat_interleave.Tensor and (kwargs or {}).get("output_size") is None
        if name in FETCHES or by_mask or unknown_size:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counted within the block; ``tolist`` reads memory without an operation that could be seen."""
    plain = Tensor.tolist
    with Waits() as mode, monkeypatch.context() as patch:

        def counted(tensor: Tensor) -> Any:
            mode.seen["tolist"] += 1
            return plain(tensor)

        patch.setattr(Tensor, "tolist", counted)
        yield mode.seen


@pytest.fixture
def rl(world: Path, trained: Path, tmp_path: Path) -> Rl:
    several = {"kl_beta": 0.1, "kind": "grpo"}
    config = run_config(
        world,
        tmp_path,
        rl={"init": str(trained), "mini_batches": 2, "objective": several, "signal": {"kind": "group_zscore"}},
        backend={"kernels": KERNELS},
    )
    return Rl(config, StageFolder(config.folder / "rl"))


def batch_of(rl: Rl) -> PackedGroups:
    groups = rl.rollout(rl.environment.prompts(0), seed=1)
    advantage = torch.linspace(-1, 1, groups.exists.numel()).view(groups.exists.shape)
    signal = Signal(groups, advantage, groups.exists, torch.zeros_like(groups.exists[:, 0]))
    return pack_active(signal, rl.policy.ops)


def test_an_update_waits_no_more_often_for_more_micro_batches(rl: Rl, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for budget in (10**6, 1):
        backend = rl.config.backend.model_copy(update={"token_budget": budget})
        rl.config = rl.config.model_copy(update={"backend": backend})
        batch = batch_of(rl)
        assert len(batch.micro_batches(budget)) == (1 if budget > 1 else len(batch.prompts))
        batch = batch_of(rl)  # a batch that has fetched nothing
        with waits(monkeypatch) as seen:
            rl.update(rl.with_logps(batch))
        counts.append(dict(seen))
    assert counts[0] == counts[1]


def test_a_whole_step_waits_a_few_times(rl: Rl, monkeypatch: pytest.MonkeyPatch) -> None:
    with waits(monkeypatch) as seen:
        values = rl.step()
    assert values["actor/optimizer_steps"] == 2
    assert seen.total() <= 32, dict(seen)
