"""Pages that are written from the code: a program that writes one, or tells that it is out of date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def write_page(about: str | None, page: Callable[[], str], default: str, module: str) -> None:
    """Write ``page()`` to the file that the command line names; with ``--check`` exit with words where they differ.

    Args:
        about: shown by ``--help``.
        default: the file where none is named.
        module: what ``python -m`` runs to write it again.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=Path(default))
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    text = page()
    if not given.check:
        given.file.write_text(text, encoding="utf-8")
    elif given.file.read_text(encoding="utf-8") != text:
        sys.exit(f"{given.file} is out of date: write it again with `python -m {module}`")
