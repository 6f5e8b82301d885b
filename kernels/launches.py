"""Kernel launches as data: one row per kernel and setting.

A launcher, its tests and the ahead-of-time gate (``recrl.kernels.aot``) read the same rows, so what is launched is what
was compiled and measured; nothing is tuned at run time. This module itself needs no Triton and imports everywhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from recrl.errors import UserError

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton's interpreter runs the kernels. Its ``tl.dot`` is wrong for bf16, so kernels upcast there."""

FLOATS: dict[torch.dtype, str] = {torch.float32: "fp32", torch.bfloat16: "bf16"}
"""Element types that kernels are compiled for, by the names that Triton's signatures use."""

ASCEND_PROGRAMS = 65_535
"""A grid on Ascend holds no more."""


@dataclass(frozen=True)
class Launch:
    """One kernel in one setting, as the launcher uses it and as the ahead-of-time gate compiles it."""

    name: str
    """What it is to a reader, such as ``linear_logp forward bf16``."""
    function: Any
    """The ``@triton.jit`` function."""
    signature: dict[str, str]
    """Triton's type of every argument but the constexpr ones: ``*bf16``, ``*i64``, ``*i1``, ``i32``, ``fp32``."""
    constants: dict[str, Any]
    """The constexpr arguments: tile sizes and flags."""
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        names = list(self.function.arg_names)
        assert names == [*self.signature, *self.constants], f"{self.name}: its arguments are {', '.join(names)}"

    @property
    def tile(self) -> str:
        """Its sizes among the constants, to a reader."""
        return ", ".join(f"{name} {value}" for name, value in self.constants.items() if type(value) is int)

    def run(self, grid: tuple[int, ...], *arguments: Any) -> None:
        """Launch on a grid; the arguments are those of ``signature``, in its order."""
        self.function[grid](*arguments, **self.constants, num_warps=self.num_warps, num_stages=self.num_stages)


def float_name(*tensors: torch.Tensor) -> str:
    """Triton's name of the element type that some tensors share.

    Raises:
        UserError: they differ, or it is a type that no kernel is compiled for.
    """
    found = {tensor.dtype for tensor in tensors}
    if len(found) != 1 or not found <= FLOATS.keys():
        raise UserError(
            f"a Triton kernel was given {', '.join(sorted(str(dtype) for dtype in found))}",
            why=f"its inputs must share one type of {', '.join(str(dtype) for dtype in FLOATS)}",
            fix="run the model in one of them, or take the kernel 'reference'",
        )
    return FLOATS[found.pop()]
