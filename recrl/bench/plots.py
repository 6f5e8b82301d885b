"""Plots as small PNG files."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

COLORS = ("#1f5fa8", "#c8551b", "#3f8f4f", "#7a4fa3", "#6b6b6b")
MARKERS = ("o", "s", "^", "D", "v")
STYLE = {
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Line:
    """A labelled line."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """One pair of axes, x logarithmic."""

    y_label: str
    lines: Sequence[Line]
    log_y: bool = True


def png(x_label: str, panels: Sequence[Panel]) -> bytes:
    """Panels side by side, as a PNG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(panels), 3.0), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), place + 1)
            for line, color, marker in zip(panel.lines, COLORS, MARKERS, strict=False):
                axes.plot(line.x, line.y, color=color, marker=marker, ms=4, lw=1.5, label=line.label)
            axes.set_xscale("log")
            axes.set_xticks(panel.lines[0].x, [short(value) for value in panel.lines[0].x])
            axes.xaxis.set_minor_locator(NullLocator())
            if panel.log_y:
                axes.set_yscale("log")
                axes.set_ylim(*_decades([value for line in panel.lines for value in line.y]))
            else:
                axes.set_ylim(bottom=0)
            axes.set_xlabel(x_label)
            axes.set_ylabel(panel.y_label)
            if len(panel.lines) > 1:
                axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, columnspacing=1.2)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def short(value: float) -> str:
    """A size in a few characters: 512, 10k, 5.4M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.2g}{letter}" if value < 100 * unit else f"{value / unit:.0f}{letter}"
    return f"{value:g}"


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """The powers of ten around positive values."""
    return 10.0 ** math.floor(math.log10(min(values))), 10.0 ** math.ceil(math.log10(max(values)))
