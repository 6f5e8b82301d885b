"""Words for a device's package that is installed and does not load. torch may be what fails, so it is not imported."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recrl.errors import UserError

FAILURES = (ImportError, RuntimeError, OSError)
"""What a package raises on import where the driver or the libraries below it are missing."""


@contextmanager
def explain_broken_npu() -> Iterator[None]:
    """Say in one sentence that torch-npu does not load, as it doesn't without CANN.

    torch and transformers import it wherever it is installed, so this stops every run, on CPU too.

    Raises:
        UserError: in place of what came out of torch-npu's import.
    """
    try:
        yield
    except FAILURES as error:
        # torch raises an error of its own, from the one that tells why. A package that failed has left sys.modules.
        cause = error.__cause__ or error
        if "torch_npu" in sys.modules or not _came_through("torch_npu", cause):
            raise
        raise UserError(
            "torch-npu is installed and does not load",
            why=first_line(cause),
            fix="source CANN's set_env.sh and take the torch-npu for this torch, or uninstall torch-npu",
        ) from None


def first_line(error: BaseException) -> str:
    """The first line of a message, or the error's kind where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _came_through(package: str, error: BaseException) -> bool:
    return any(package in Path(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__))
