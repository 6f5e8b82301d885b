"""Figures as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; columns after the first are aligned to the right."""
    lines = [
        _line(columns),
        _line(["---", *["---:"] * (len(columns) - 1)]),
        *(_line(row) for row in rows),
    ]
    return "\n".join(lines)


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def ratio(value: float) -> str:
    """Such as ``12.3x``."""
    return f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def milliseconds(seconds: float) -> str:
    """With three digits that tell something, in ms up to a second and in s from there on."""
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{1000 * seconds:.3g} ms"


def megabytes(count: float) -> str:
    """Bytes in 10^6."""
    return f"{count / 1e6:,.0f} MB" if count >= 10e6 else f"{count / 1e6:.1f} MB"


def count(number: float) -> str:
    """A large number with its thousands apart."""
    return f"{number:,.0f}"
