"""Line plots as inline SVG whose colours and fonts are the page's, so that they follow light and dark.

matplotlib draws with stand-in colours that are then replaced by CSS variables. Text stays text. Nothing that a user
wrote enters a plot: labels are our own words.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recrl.report.collect import Series

SIZE_INCHES = (4.7, 2.6)
SMOOTH_FROM_ROWS = 60
"""Below so many rows a line is drawn as it is."""
_INK, _MUTED, _RULE = "#0a0b0c", "#1a1b1c", "#2a2b2c"
_SERIES = tuple(f"#3a3b0{place}" for place in range(1, 9))
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _RULE: "--rule"} | {
    color: f"--series-{place}" for place, color in enumerate(_SERIES, 1)
}
_DASHES: tuple[object, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "recrl",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.formatter.useoffset": False,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
}


@dataclass(frozen=True)
class Line:
    """One labelled line; lines differ by colour and by dashes. ``band`` [2, rows] is what lies around it."""

    label: str
    series: Series
    band: NDArray[np.float64] | None = None


def line_plot(
    lines: Sequence[Line],
    *,
    y_label: str,
    plot_id: str,
    x_label: str = "optimiser step",
    ratio: bool = False,
    smooth: bool = True,
    marked_step: int | None = None,
) -> str:
    """An SVG element.

    Args:
        plot_id: makes the ids inside unique on the page.
        smooth: draw a moving mean over long series, the values themselves thin behind it.
        ratio: the values are shares: the axis runs from 0 to 1.
        marked_step: where a ring is drawn on the first line.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    with mpl.rc_context(_STYLE):
        width, height = SIZE_INCHES
        rows_of_legend = (len(lines) + 1) // 2
        size = (width, height + 0.2 * max(0, rows_of_legend - 2))
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(facecolor="none")
        for place, line in enumerate(lines):
            _draw(axes, line, _SERIES[place % len(_SERIES)], _DASHES[place % len(_DASHES)], smooth=smooth)
        if marked_step is not None and marked_step in lines[0].series.steps:
            value = lines[0].series.values[lines[0].series.steps == marked_step]
            axes.plot([marked_step], value, "o", ms=8, mfc="none", mec=_INK, mew=1.2)
        if ratio:
            axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if len(lines) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, columnspacing=1.4)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(file.getvalue(), plot_id)


def smoothed(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Centred moving mean of ``width`` (odd) values; narrower at the ends, so that no value is made up."""
    half = width // 2
    sums = np.concatenate(([0.0], np.cumsum(values)))
    place = np.arange(len(values))
    reach = np.minimum(np.minimum(place, len(values) - 1 - place), half)
    return np.asarray((sums[place + reach + 1] - sums[place - reach]) / (2 * reach + 1))


def smoothing_width(rows: int) -> int:
    """Values that the thick line averages over: 1 where a line is drawn as it is."""
    return 1 if rows < SMOOTH_FROM_ROWS else 2 * (rows // 60) + 1


def _draw(axes: object, line: Line, color: str, dashes: object, *, smooth: bool) -> None:
    steps, values = line.series.steps, line.series.values
    width = smoothing_width(len(values)) if smooth else 1
    marker = "o" if len(values) <= 30 else ""
    if width > 1:
        axes.plot(steps, values, color=color, lw=0.7, alpha=0.3)  # type: ignore[attr-defined]
        values = smoothed(values, width)
    if line.band is not None:
        axes.fill_between(steps, *line.band, color=color, alpha=0.14, lw=0)  # type: ignore[attr-defined]
    axes.plot(  # type: ignore[attr-defined]
        steps, values, color=color, lw=1.7, ls=dashes, marker=marker, ms=3.5, label=line.label
    )


def _inline(svg: str, plot_id: str) -> str:
    """Drop the XML head, make ids unique, let CSS set colours and the font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{plot_id}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{plot_id}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
