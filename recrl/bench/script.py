"""What scripts in ``benchmarks/`` and ``examples/`` share: arguments, and refusals as on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from recrl.errors import UserError


def positive(text: str) -> int:
    """A whole number from 1 up, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


@contextmanager
def refusals() -> Iterator[None]:
    """A ``UserError`` within becomes its message and its exit code."""
    try:
        yield
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
