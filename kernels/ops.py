"""The ops of one run, picked once at its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from recrl.kernels.registry import pick


@dataclass(frozen=True)
class Ops:
    """Every op that training calls, as ``reference.py`` of its folder defines it."""

    linear_logp: Callable[..., tuple[Tensor, Tensor]]
    legal_logp: Callable[..., tuple[Tensor, Tensor]]
    log_normaliser: Callable[[Tensor], Tensor]
    prefix_attention: Callable[..., Tensor]
    shared_prefix_attention: Callable[..., Tensor]
    gmean_ratio: Callable[[Tensor, Tensor, Tensor], Tensor]
    boundary_select: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    pack_active: Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]

    @classmethod
    def pick(cls, device: str, wanted: Mapping[str, str] | None = None) -> Ops:
        """The named implementations, and the fastest that can run on the device type for every other op.

        Raises:
            UserError: a named implementation can't run here.
        """
        names = (
            "linear_logp",
            "prefix_attention",
            "shared_prefix_attention",
            "gmean_ratio",
            "boundary_select",
            "pack_active",
        )
        module = {name: pick(name, device, (wanted or {}).get(name, "auto")) for name in names}
        logp = module["linear_logp"]
        found = {name: getattr(module[name], name) for name in names}
        over = getattr(module["shared_prefix_attention"], "over", None)
        if over is not None:  # it leaves the responses to the other op
            found["shared_prefix_attention"] = over(found["prefix_attention"])
        return cls(legal_logp=logp.legal_logp, log_normaliser=logp.log_normaliser, **found)
