"""Hugging Face folders read slice by slice and written file by file, so that nobody holds a whole model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from recrl.backends.policy import Slices
from recrl.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FILE_BYTES = 4 * 10**9


class FolderReader:
    """Finds tensors of a folder by name; opens every file once and reads what is asked for alone.

    Raises:
        UserError: the folder has no safetensors, or not the tensor.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, str] | None = None
        if (folder / INDEX).is_file():
            self._files = json.loads((folder / INDEX).read_text())["weight_map"]
        elif not (folder / SINGLE).is_file():
            raise UserError(
                f"no weights at {folder}", why=f"neither {SINGLE} nor {INDEX} is there", fix="save it as safetensors"
            )
        self._open: dict[str, safe_open] = {}

    def __call__(self, name: str) -> Slices:
        file = SINGLE if self._files is None else self._files.get(name, "")
        if file and file not in self._open:
            self._open[file] = safe_open(self._folder / file, framework="pt")
        if not file or name not in self._open[file].keys():  # type: ignore[no-untyped-call]  # noqa: SIM118
            raise UserError(
                f"no tensor {name} at {self._folder}", why="its config promises one", fix="check the folder"
            )
        found: Slices = self._open[file].get_slice(name)  # type: ignore[no-untyped-call]
        return found


class FolderWriter:
    """Collects tensors and writes every file as soon as it is complete.

    Args:
        shapes: names and shapes of all that will come, in the same order; their elements are float32.
    """

    def __init__(
        self, folder: Path, shapes: Iterable[tuple[str, tuple[int, ...]]], file_bytes: int = FILE_BYTES
    ) -> None:
        self._folder = folder
        self._bytes = 0
        files: list[list[str]] = [[]]
        filled = 0
        for name, shape in shapes:
            size = 4 * prod(shape)
            if files[-1] and filled + size > file_bytes:
                files.append([])
                filled = 0
            files[-1].append(name)
            filled += size
            self._bytes += size
        self._plan = [
            (SINGLE if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors", names)
            for number, names in enumerate(files, 1)
        ]

    def write(self, tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Write all of them."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for file, names in self._plan:
            held = {}
            for expected in names:
                name, tensor = next(tensors)
                assert name == expected
                held[name] = tensor.to("cpu", torch.float32).contiguous()
            save_file(held, self._folder / file, metadata={"format": "pt"})
        if len(self._plan) > 1:
            places = {name: file for file, names in self._plan for name in names}
            index = {"metadata": {"total_size": self._bytes}, "weight_map": places}
            (self._folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
