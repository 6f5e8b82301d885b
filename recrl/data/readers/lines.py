"""Text files, plain or gzip, line by line, with errors that name the file and the line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from recrl.errors import DataError


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """``(number from 1, line without its end)``.

    Raises:
        DataError: the file is missing, not text, or a truncated or broken gzip.
    """
    number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, 1):
                yield number, line.rstrip("\r\n")
    except FileNotFoundError:
        raise DataError(f"{path} is not there", why="the reader needs it", fix="check the source folder") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: broken gzip after line {number}", why=str(error), fix="fetch the file again"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 after line {number}", why=str(error), fix="convert the file to UTF-8"
        ) from None
    except OSError as error:
        raise DataError(
            f"can't read {path}", why=error.strerror or str(error), fix="check the file and its permissions"
        ) from None


def source_folder(source: Path | None) -> Path:
    """The folder that a reader was pointed at.

    Raises:
        DataError: none was named, or it is not a folder.
    """
    if source is None or not source.is_dir():
        raise DataError(
            f"source {source}", why="it is not a folder", fix="pass the folder that holds the format's files"
        )
    return source


def filled(path: Path, rows: int) -> None:
    """Refuse a file that gave no row.

    Raises:
        DataError: ``rows`` is 0.
    """
    if rows == 0:
        raise DataError(
            f"{path} holds no usable row", why="there is nothing to prepare", fix="check that it is the right file"
        )


def _open(path: Path) -> IO[Any]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")
