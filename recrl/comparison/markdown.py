"""``RESULTS.md``: the figures of a comparison as a page to commit."""

from __future__ import annotations

from recrl.bench import markdown as bench_markdown
from recrl.comparison.figures import Comparison
from recrl.comparison.tables import Cell, Table, tables
from recrl.comparison.words import verdicts, warnings


def markdown(found: Comparison) -> str:
    """The page."""
    parts = [
        "# RL recipes from one start, under one budget",
        f"Written by `{found.command}`. Every run starts from `{found.start}` and generates at most {found.budget:,} "
        f"responses. `report.html` has the curves, `results.json` every figure; `docs/comparing.md` says how to read "
        "them.",
        environment(found),
        "\n".join(f"- {line}" for line in [*verdicts(found), *warnings(found)]),
        *(_table(table) for table in tables(found)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def environment(found: Comparison) -> str:
    """What the runs ran on, in a line; empty before the first one has finished."""
    about = found.environment
    if not about:
        return ""
    return f"{about['cpus']} CPU cores, device {about['device']}, torch {about['packages']['torch']}."


def _table(table: Table) -> str:
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    return f"## {table.title}\n\n{bench_markdown.table(table.columns, rows)}\n\n{table.note}"


def _cell(cell: Cell) -> str:
    return f"{cell.text} ({cell.small})" if cell.small else cell.text
