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

from recrl.errors import UserError
from recrl.models.checkpoint import new_rows
from recrl.models.tensors import ReadTensor, Slices

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FILE_BYTES = 4 * 10**9
ROWS_AT_ONCE = 16384


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


class Grown:
    """A matrix of a folder with new rows below, of which the old ones stay on disk until they are sliced.

    Args:
        old: [rows, H] on disk.
        rows: of it.
        new: [added, H].
    """

    def __init__(self, old: Slices, rows: int, new: Tensor) -> None:
        self._old = old
        self._rows = rows
        self._new = new

    def __getitem__(self, place: slice) -> Tensor:
        begin, end, _ = place.indices(self._rows + len(self._new))
        parts = [self._old[begin : min(end, self._rows)]] if begin < self._rows else []
        parts.append(self._new[max(begin - self._rows, 0) : max(end - self._rows, 0)])
        return torch.cat(parts)


def grown(read: ReadTensor, matrices: list[str], rows: int, size: int, seed: int) -> ReadTensor:
    """Reads ``matrices`` as ``grow_vocabulary`` would leave them with ``size`` rows, and everything else as it is.

    Mean and spread are found piece by piece, so they agree with its to float32's rounding.

    Args:
        matrices: the embedding, and an untied head behind it.
        rows: that they have.
    """
    generator = torch.Generator().manual_seed(seed)
    new = {}
    for name in matrices:
        mean, spread = _mean_and_spread(read(name), rows)
        new[name] = new_rows(mean, spread, size - rows, generator)
    return lambda name: Grown(read(name), rows, new[name]) if name in new else read(name)


def _mean_and_spread(matrix: Slices, rows: int) -> tuple[Tensor, Tensor]:
    """[H] mean of the rows, and the standard deviation of all entries."""
    total = squares = torch.zeros((), dtype=torch.float64)
    for begin in range(0, rows, ROWS_AT_ONCE):
        part = matrix[begin : min(begin + ROWS_AT_ONCE, rows)].double()
        total, squares = total + part.sum(0), squares + part.square().sum()
    count = rows * len(total)
    variance = (squares - total.sum() ** 2 / count) / (count - 1)
    return (total / rows).float(), variance.sqrt().float()
