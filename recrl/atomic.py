"""Folders and files that are either whole or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recrl.errors import UserError


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill; it takes the place of ``target`` when the block ends well and is gone when it does not.

    Raises:
        UserError: ``target`` exists and may not be replaced, or can't be written.
    """
    if target.exists() and not overwrite:
        raise UserError(
            f"{target} exists already", why="it would be replaced", fix="choose another place, or pass --overwrite"
        )
    made = [parent for parent in target.absolute().parents if not parent.exists()]  # innermost first
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UserError(
            f"can't write {target}", why=error.strerror or str(error), fix="choose a place that you may write"
        ) from None
    try:
        yield beside
        beside.chmod(0o755)
        sync_folder(beside)
        if target.exists():
            shutil.rmtree(target)
        beside.rename(target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def sync_folder(folder: Path) -> None:
    """fsync every file and folder below."""
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text)
    _sync(beside)
    beside.replace(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
