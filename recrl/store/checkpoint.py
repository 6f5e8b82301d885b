"""Checkpoints that are whole or not there.

A checkpoint is written beside, fsynced, hashed into ``MANIFEST.json``, then renamed; a reader that finds a bad hash
says so and takes the one before. No pickle: safetensors and JSON.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recrl.atomic import new_folder
from recrl.backends.ranks import ALONE, Ranks
from recrl.errors import RunError, UserError
from recrl.models.tensors import Slices

logger = logging.getLogger(__name__)
MANIFEST = "MANIFEST.json"
FILE_BYTES = 4 * 2**30
"""Of one file of tensors: what the first rank holds at once of a model that is spread over many."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk, its hashes checked."""

    path: Path
    state: dict[str, Any]

    @property
    def model(self) -> Path:
        """The Hugging Face folder."""
        return self.path / "model"

    @cached_property
    def _files(self) -> dict[str, Any]:
        """The open file of every tensor."""
        opened = [safe_open(path, framework="pt") for path in sorted(self.path.glob("trainer*.safetensors"))]
        return {name: file for file in opened for name in file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118

    def read(self, name: str) -> Slices:
        """One tensor of what the trainer needs to go on (weights, average, optimiser), read where it is sliced."""
        found: Slices = self._files[name].get_slice(name)
        return found


def write(
    folder: Path,
    step: int,
    save_model: Callable[[Path], None],
    tensors: Iterable[tuple[str, Tensor]],
    state: dict[str, Any],
    ranks: Ranks = ALONE,
) -> Path:
    """Write ``folder/step-000100`` and point ``folder/../latest`` at it; all ranks have to call together.

    Args:
        save_model: writes a Hugging Face folder on the first rank; the others call it to help.
        tensors: names and whole tensors, made one after the other, so that none of them has to wait for the rest.

    Raises:
        RunError: the disk is full or gone; nothing of the checkpoint is left, those before it are untouched.
    """
    target = folder / f"step-{step:06d}"
    if ranks.is_first:
        _write(target, save_model, tensors, state)
    else:
        save_model(target / "model")
        for _ in tensors:  # made together with the first rank, which writes them
            pass
    ranks.barrier()
    return target


def _write(
    target: Path, save_model: Callable[[Path], None], tensors: Iterable[tuple[str, Tensor]], state: dict[str, Any]
) -> None:
    try:
        with new_folder(target, overwrite=True) as beside:
            save_model(beside / "model")
            for number, part in enumerate(_parts(tensors, FILE_BYTES)):
                save_file(part, beside / (f"trainer-{number}.safetensors" if number else "trainer.safetensors"))
            (beside / "state.json").write_text(json.dumps(state, indent=2) + "\n")
            files = [path for path in sorted(beside.rglob("*")) if path.is_file()]
            hashes = {str(path.relative_to(beside)): _hash(path) for path in files}
            (beside / MANIFEST).write_text(json.dumps(hashes, indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        fix = "make room, then go on with --resume"
        raise RunError(f"can't write the checkpoint {target}", why=str(error), fix=fix) from None
    _point(target.parent.parent / "latest", target)


def _parts(tensors: Iterable[tuple[str, Tensor]], limit: int) -> Iterator[dict[str, Tensor]]:
    """What goes into one file together: at most ``limit`` bytes, or a single tensor; at least one part."""
    held: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        more = tensor.numel() * tensor.element_size()
        if held and size + more > limit:
            yield held
            held, size = {}, 0
        held[name] = tensor.cpu().contiguous()
        size += more
    yield held


def read(path: Path) -> Checkpoint:
    """Open one checkpoint and check it against its manifest.

    Raises:
        RunError: a file is missing or differs from what was written.
    """
    fix = "use another checkpoint"
    try:
        hashes = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not a whole checkpoint", why=f"{MANIFEST}: {error}", fix=fix) from None
    if not isinstance(hashes, dict):
        raise RunError(f"{path} is damaged", why=f"{MANIFEST} holds no table of hashes", fix=fix)
    for name, expected in hashes.items():
        file = path / name
        if not file.is_file() or _hash(file) != expected:
            raise RunError(f"{path} is damaged", why=f"{name} is not what was written", fix=fix)
    return Checkpoint(path, json.loads((path / "state.json").read_text()))


def steps(folder: Path) -> list[Path]:
    """Checkpoints of a stage, oldest first; none where the folder is not there."""
    return sorted(folder.glob("step-*"))


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are named in the log and passed over."""
    for path in reversed(steps(folder)):
        try:
            return read(path)
        except RunError as error:
            logger.warning("%s; taking the one before", str(error).replace("\n", ";"))
    return None


def settle(folder: Path, found: Checkpoint | None) -> None:
    """Finish what a kill left half done: drop what was being written, and point ``latest`` at what was found."""
    for path in folder.glob(".step-*"):
        shutil.rmtree(path)
    if found is not None:
        _point(folder.parent / "latest", found.path)


def best(stage: Path) -> Checkpoint:
    """The checkpoint of a stage that validated best; the newest whole one where that is gone.

    Raises:
        UserError: the stage has none.
    """
    found = newest(stage / "checkpoints")
    if found is None:
        damaged = len(steps(stage / "checkpoints"))
        why = f"{damaged} damaged ones alone are there" if damaged else "the stage has not run, or not far enough"
        raise UserError(f"no checkpoint below {stage}", why=why, fix="run the stage first")
    path = stage / "checkpoints" / f"step-{found.state['progress']['best_step']:06d}"
    return read(path) if path.is_dir() else found


def prune(folder: Path, keep: int, best: int) -> None:
    """Leave the ``keep`` newest and the best."""
    every = steps(folder)
    for path in every[:-keep]:
        if path.name != f"step-{best:06d}":
            shutil.rmtree(path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _point(link: Path, target: Path) -> None:
    beside = link.with_name(f".{link.name}.tmp")
    beside.unlink(missing_ok=True)
    beside.symlink_to(os.path.relpath(target, link.parent))
    beside.replace(link)
