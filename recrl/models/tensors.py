"""Tensors of a model that are read where they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor


class Slices(Protocol):
    """A whole tensor that is read in slices: a tensor, or one in a safetensors file."""

    def __getitem__(self, place: Any, /) -> Tensor: ...


ReadTensor = Callable[[str], Slices]
"""Finds a whole tensor by its Hugging Face name."""
