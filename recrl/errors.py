"""The only exceptions that a user should ever meet.

A message has three parts: what was found, why it can't work, what to do. ``commands/main.py`` prints it and turns it
into an exit code: 2 for the user's mistakes, 1 for a run that failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RecrlError(Exception):
    """A failure with words for the user. ``exit_code`` is what the command line returns."""

    exit_code = 1

    def __init__(self, found: str, *, why: str = "", fix: str = "") -> None:
        self.found, self.why, self.fix = found, why, fix
        super().__init__("\n".join(part for part in (found, why and f"  Why: {why}", fix and f"  Fix: {fix}") if part))


class UserError(RecrlError):
    """The input, the config or the call is wrong; nothing was written."""

    exit_code = 2


class ConfigError(UserError):
    """A config file, an override or a recipe says something that can't be."""


class DataError(UserError):
    """A data file is missing, broken, or says something that can't be."""


class RunError(RecrlError):
    """A run could not go on although its input was right."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that name the closest known names, for a ``fix``."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}? Known: {', '.join(names)}." if close else f"known: {', '.join(names)}."
