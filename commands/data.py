"""``recrl data``: raw sources -> prepared data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from recrl.data.readers import READERS

FORMATS = tuple(kind for kind in READERS if kind != "synthetic")
"""Those that read a source; `recrl data synthetic` makes the other."""
SPLITS = click.Choice(["leave-one-out", "chronological"])


@click.group(short_help="Prepare data sets.")
def data() -> None:
    """Turn interaction logs into a prepared data set: catalogue, training sequences, valid and test examples."""


@data.command(short_help="Read, split and write a data set.")
@click.argument("format_", type=click.Choice(FORMATS))
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--split", type=SPLITS, help="Default: leave-one-out, or the source's own split.")
@click.option(
    "--history-limit", type=click.IntRange(1), help="Items of history in a prompt. Default: 20; chronological: 10."
)
@click.option("--min-core", type=click.IntRange(1), help="amazon: iterative k-core. Default: 5 for raw reviews.")
@click.option("--skip-bad-rows", is_flag=True, help="Count and leave out rows that can't be used, instead of stopping.")
@click.option("--overwrite", is_flag=True, help="Replace the folder if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print dataset.json instead of a table.")
@click.option("-O", "option", multiple=True, metavar="KEY=VALUE", help="An option of the reader; may be repeated.")
def prepare(format_: str, out: Path, as_json: bool, min_core: int | None, option: tuple[str, ...], **rest: Any) -> None:
    """Prepare SOURCE, a file or folder in FORMAT."""
    options: dict[str, Any] = _options(option)
    if min_core is not None:
        options["min_core"] = min_core
    from recrl.data.prepare import prepare as run  # pyarrow loads here

    meta = run(format_, out=out, options=options, **rest)
    _print(meta, out, as_json=as_json)


@data.command(short_help="Make the embedded marketplace.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--users", type=int, help="Default: 2,000.")
@click.option("--items", type=int, help="Default: 500.")
@click.option("--interactions", type=int, help="Exact number, at least three a user. Default: 20,000.")
@click.option("--seed", type=int, help="Default: 0.")
@click.option("--recif", is_flag=True, help="Write RecIF parquet files instead, for `recrl data prepare recif`.")
@click.option("--split", type=SPLITS, help="Default: leave-one-out.")
@click.option(
    "--history-limit", type=click.IntRange(1), help="Items of history in a prompt. Default: 20; chronological: 10."
)
@click.option("--overwrite", is_flag=True, help="Replace the folder if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print dataset.json instead of a table.")
@click.option("-O", "option", multiple=True, metavar="KEY=VALUE", help="Another option of the marketplace.")
def synthetic(out: Path, recif: bool, overwrite: bool, as_json: bool, option: tuple[str, ...], **rest: Any) -> None:
    """Make a marketplace whose best reachable HR@K and NDCG@K are known."""
    options: dict[str, Any] = _options(option)
    options |= {name: rest.pop(name) for name in ("users", "items", "interactions", "seed") if rest[name] is not None}
    rest = {name: value for name, value in rest.items() if name in ("split", "history_limit")}
    if recif:
        if rest["split"] or rest["history_limit"]:
            raise click.UsageError(
                "--recif writes raw files; --split and --history-limit belong to `data prepare recif`"
            )
        from recrl.data.recif_writer import write_recif  # pyarrow loads here

        click.echo(json.dumps(write_recif(options, out, overwrite=overwrite), indent=2))
        return
    from recrl.data.prepare import prepare as run

    meta = run("synthetic", None, out, options=options, overwrite=overwrite, **rest)
    _print(meta, out, as_json=as_json)


def _options(pairs: tuple[str, ...]) -> dict[str, Any]:
    found = [pair.partition("=") for pair in pairs]
    for key, equals, _ in found:
        if not (key and equals):
            raise click.BadParameter(f"{key!r} is not KEY=VALUE", param_hint="-O")
    return {key: value for key, _, value in found}


def _print(meta: dict[str, Any], out: Path, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(meta, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{meta['format']} -> {out}", show_header=False)
    for name, value in _rows(meta):
        table.add_row(name, value)
    Console().print(table)


def _rows(meta: dict[str, Any]) -> list[tuple[str, str]]:
    summary = meta["summary"]
    cold, categories, skipped = summary["cold_items"], summary["categories"], summary["skipped_rows"]
    rows = [(name, f"{summary[name]:,}") for name in ("users", "items", "interactions") if summary[name] is not None]
    if summary["sparsity"] is not None:
        rows.append(("sparsity", f"{summary['sparsity']:.4%}"))
    rows.append(("split", f"{meta['split']}, history limit {meta['history_limit']}"))
    rows += [
        (f"{name} rows", f"{count:,}") for name, count in summary["rows"].items() if count or name != "train_examples"
    ]
    for name, lengths in summary["history_length"].items():
        if lengths:
            rows.append(
                (f"{name} length", "  ".join(f"{key} {value:g}" for key, value in lengths.items() if key != "mean"))
            )
    rows.append(("cold items", f"{cold['count']:,} ({cold['definition']}); {cold['never_in_train']:,} never in train"))
    rows.append(("categories", f"{categories['count']:,}; {categories['items_without']:,} items without"))
    rows.append(("rows skipped", f"{skipped['count']:,}"))
    rows += [("", f"{count:,} x {reason}") for reason, count in skipped["reasons"].items()]
    for name, best in meta.get("optimum", {}).items():
        if best:
            figures = "  ".join(f"{key} {best['expected'][key]:.4f}" for key in ("hr@1", "hr@10", "ndcg@10"))
            rows.append((f"{name} optimum", f"{figures} (expected, {best['rows']:,} rows)"))
    if "warning" in summary:
        rows.append(("warning", summary["warning"]))
    rows.append(("seconds", "  ".join(f"{name} {value:.2f}" for name, value in summary["seconds"].items())))
    return rows
