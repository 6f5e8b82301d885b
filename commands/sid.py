"""``recrl sid``: semantic IDs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from recrl import config as configs
from recrl.commands.options import config_argument, echo_json, json_option, overwrite_option, set_option


@click.group(short_help="Build and extend semantic IDs.")
def sid() -> None:
    """Turn items into semantic IDs: text and co-occurrence -> embedding -> codes."""


@sid.command(short_help="Build the SIDs of a prepared data set.")
@config_argument
@set_option
@overwrite_option
@json_option
def build(config: str, overrides: tuple[str, ...], overwrite: bool, as_json: bool) -> None:
    """Build the SIDs that section [sid] of CONFIG (a TOML file) describes, and print what they are worth."""
    run = configs.load(Path(config), overrides)
    from recrl.data.dataset import load  # numpy, pyarrow, scikit-learn and faiss load here
    from recrl.sids.build import SidPlan, build_folder

    chosen = run.sid
    plan = SidPlan(chosen.encoder, chosen.quantizer, chosen.levels, chosen.codebook_size)
    index = build_folder(load(run.data.path), plan, run.run.seed, chosen.path, overwrite=overwrite)
    if as_json:
        echo_json({"path": str(chosen.path), **index.meta})
    else:
        _print_build(index.meta, chosen.path)


@sid.command(short_help="Give new items a SID without building again.")
@click.argument("source", metavar="CONFIG_OR_FOLDER", type=click.Path(path_type=Path))
@click.argument("items", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the extended index.")
@overwrite_option
@json_option
def assign(source: Path, items: Path, out: Path, overwrite: bool, as_json: bool) -> None:
    """Give the items of ITEMS (JSON Lines: item_id, title, ...) a SID in the index of a config or an index folder.

    No item's SID changes. A new item whose nearest path is another item's alone takes the next nearest path.
    """
    folder = source if source.is_dir() else configs.load(source).sid.path
    from recrl.sids.assign import assign_folder

    assigned = assign_folder(folder, items, out, overwrite=overwrite)
    if as_json:
        echo_json({"path": str(out), "assigned": assigned.rows})
        return
    for row in assigned.rows:
        remarks = [
            text for key, text in (("moved", "next nearest path"), ("new_token", "needs a new token")) if row[key]
        ]
        click.echo("\t".join([row["item_id"], "".join(row["sid"]), *remarks]))
    click.echo(f"{len(assigned.rows):,} new items of {len(assigned.index):,}: {out}", err=True)


def _print_build(meta: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Semantic IDs -> {folder}", show_header=False)
    for name, value in _rows(meta["statistics"]):
        table.add_row(name, value)
    for name in ("encoder", "quantizer"):
        if name in meta:
            table.add_row(name, meta[name]["kind"])
            for note, value in _notes(meta[name]["notes"]):
                table.add_row(f"  {note}", value)
    Console().print(table)


def _rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    purity = figures["category_purity"]
    error = figures["reconstruction_error"]
    rows = [("items", f"{figures['items']:,}")]
    for number, level in enumerate(figures["levels"], 1):
        used = f"{level['used']:,} of {level['size']:,} codes used, perplexity {level['perplexity']:.1f}"
        rows.append(
            (f"level {number}", used if purity is None else f"{used}, category purity {purity[number - 1]:.3f}")
        )
    rows += [
        ("unique paths", f"{figures['unique_paths']:,}"),
        (
            "collision rate",
            f"{figures['collision_rate']:.2%}, with suffixes {figures['collision_rate_with_suffix']:.2%}",
        ),
        ("items with a suffix", f"{figures['shared_items']:,}"),
        ("largest cluster", f"{figures['largest_cluster']:,} items on one path"),
        ("reconstruction error", "-" if error is None else f"{error:.4f} of the embedding's variance"),
    ]
    return rows


def _notes(notes: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested notes as flat rows; empty ones are left out."""
    rows = []
    for name, value in notes.items():
        if isinstance(value, dict):
            rows += _notes(value, f"{prefix}{name} ")
        else:
            rows.append((f"{prefix}{name}".replace("_", " "), str(value)))
    return rows
