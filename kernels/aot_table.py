"""How both ahead-of-time gates end: their table is written, or compared with the one that is kept."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from pathlib import Path

from recrl.errors import RecrlError, RunError


def settle(table: Path, make: Callable[[], str], *, check: bool, command: str) -> int:
    """Make the text of a table and write it, or only hold it against the one that is kept; failures are printed.

    Args:
        table: the file.
        make: gives the text, or raises where a kernel must not be shipped.
        check: compare, do not write.
        command: that writes the table.

    Returns:
        The exit code: 1 where a kernel must not be shipped or the table is out of date.
    """
    try:
        made = make()
        if check:
            compare(made, table, command)
        else:
            table.write_text(made)
    except RecrlError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def compare(made: str, table: Path, command: str) -> None:
    """Hold a text that was just made against the table that is kept.

    Raises:
        RunError: they differ.
    """
    kept = table.read_text()
    if made != kept:
        change = difflib.unified_diff(kept.splitlines(), made.splitlines(), table.name, "now", lineterm="", n=0)
        raise RunError(f"{table.name} is out of date", why="\n".join(change), fix=f"run {command}")
