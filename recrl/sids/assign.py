"""SIDs for items that came after the index was built: nothing is fitted again, and no item's SID changes.

A new item takes the nearest centroid, level by level. Two rules keep every SID from being a prefix of another, and the
model's vocabulary as it is:

- A path that one item has to itself stays that item's: it can't be shared without giving that item a suffix, which is
  another SID. The new item goes on to the next nearest code of the last level, and where all of those are taken to the
  next nearest code of the level before.
- On a path whose items have suffixes already, the new item takes the next number, as long as some path has that number
  (so the token exists). A token of its own is added only where no path is left.

A path that nobody has is taken without a suffix, and so belongs to its first item.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from recrl.atomic import new_folder
from recrl.data.dataset import Catalog
from recrl.errors import DataError, UserError
from recrl.parts import Choice
from recrl.sids.build import ITEM_IDS, check_finite, write
from recrl.sids.codes import SidIndex, load
from recrl.sids.encoders import Arrays, Matrix, resolve_encoder, unprefixed
from recrl.sids.quantizers import resolve_quantizer
from recrl.sids.quantizers.residual import codebooks_of, squared_distances

Path_ = tuple[int, ...]


@dataclass(frozen=True)
class Assigned:
    """The index with the new items after the old ones.

    Attributes:
        item_ids: of all items, in the order of ``index``.
        rows: one a new item: ``item_id``, ``sid`` (tokens), ``moved`` (the nearest path was another item's alone) and
            ``new_token`` (its suffix is a token that no model of the old index has).
    """

    index: SidIndex
    item_ids: list[str]
    rows: list[dict[str, Any]]
    arrays: Arrays


def assign(folder: Path, items: Path) -> Assigned:
    """Give every item of a JSON Lines file (see ``read_items``) a SID.

    Raises:
        DataError: the index or the file is broken, an item is known already, or has no text.
        UserError: the index was built in a way that can't encode new items.
    """
    index = load(folder)
    item_ids, arrays = _read_model(folder)
    catalog = read_items(items)
    known = sorted(set(catalog.item_ids) & set(item_ids))
    if known:
        raise DataError(
            f"{len(known)} of the new items have a SID already, item {known[0]!r} among them",
            why="an item keeps the SID that it has",
            fix=f"leave them out of {items}",
        )
    points = _latent(index, catalog, arrays)
    codes, suffix, moved = _place(index, points, codebooks_of(unprefixed("quantizer", arrays)))
    tokens_before = index.num_suffixes
    record = {
        "items": len(catalog),
        "moved": int(moved.sum()),
        "new_tokens": max(0, int(suffix.max()) + 1 - tokens_before),
    }
    meta = index.meta | {"assigned": [*index.meta.get("assigned", []), record], "dataset": None}
    whole = SidIndex(np.vstack([index.codes, codes]), np.append(index.suffix, suffix), index.sizes, meta)
    rows = [
        {
            "item_id": item_id,
            "sid": whole.tokens(len(index) + row),
            "moved": bool(moved[row]),
            "new_token": bool(suffix[row] >= tokens_before),
        }
        for row, item_id in enumerate(catalog.item_ids)
    ]
    return Assigned(whole, item_ids + catalog.item_ids, rows, arrays)


def assign_folder(folder: Path, items: Path, out: Path, *, overwrite: bool = False) -> Assigned:
    """``assign``, written as an index folder that later calls can extend again, with ``assigned.jsonl`` for the new
    items.

    Raises:
        UserError: as ``assign``; ``out`` exists and may not be replaced, or can't be written.
    """
    assigned = assign(folder, items)
    with new_folder(out, overwrite=overwrite) as beside:
        write(assigned.index, assigned.arrays, assigned.item_ids, beside)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in assigned.rows]
        (beside / "assigned.jsonl").write_text("".join(lines))
    return assigned


def read_items(path: Path) -> Catalog:
    """Items as JSON Lines: ``item_id`` (or ``id``), and text: ``title``, ``description``, ``brand``, ``category`` (or
    ``l2``).

    ``categories``, a path of names, stands in for a description and for the category where those are missing, as in
    ``recrl data prepare amazon``. Other keys are not read.

    Raises:
        DataError: names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"can't read {path}", why=str(error), fix="name a file of items, one JSON object a line"
        ) from None
    rows = [_item(path, number, line) for number, line in enumerate(lines, 1)]
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        if row[0] in seen:
            raise DataError(
                f"{path}:{number}: item {row[0]!r} occurs twice", why="ids are unique", fix="keep one of them"
            )
        seen.add(row[0])
    if not rows:
        raise DataError(f"{path} holds no item", why="it is empty", fix="write one JSON object a line")
    item_ids, titles, descriptions, brands, categories = (list(column) for column in zip(*rows, strict=True))
    return Catalog(item_ids, titles, descriptions, brands, categories)


def _item(path: Path, number: int, line: str) -> tuple[str, str, str, str, str]:
    where = f"{path}:{number}"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON", why=str(error), fix="write one JSON object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: {type(row).__name__}, not an object", fix='write {"item_id": ..., "title": ...}')
    item_id = row.get("item_id", row.get("id"))
    if not isinstance(item_id, str | int) or isinstance(item_id, bool) or item_id == "":
        raise DataError(f"{where}: no item_id", why="an ID can't be given to an item without a name", fix="add item_id")
    names = row.get("categories") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: categories = {names!r}", why="it is no list of names", fix="write a list of strings")
    text = {}
    for key in ("title", "description", "brand", "category", "l2"):
        value = row.get(key)
        if not isinstance(value, str | None):
            raise DataError(f"{where}: {key} = {value!r}", why="it is no text", fix="write a string, or leave it out")
        text[key] = (value or "").strip()
    category = text["category"] or text["l2"] or "".join(names[1:2])
    description = text["description"] or " > ".join(names)
    if not (text["title"] or description or text["brand"] or category):
        raise DataError(
            f"{where}: item {item_id!r} has no text", why="its SID follows from its text", fix="add a title"
        )
    return str(item_id), text["title"], description, text["brand"], category


def _read_model(folder: Path) -> tuple[list[str], Arrays]:
    fix = "build the index again with `recrl sid build`"
    try:
        item_ids = json.loads((folder / ITEM_IDS).read_text(encoding="utf-8"))
        arrays = load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        name = Path(error.filename or "model.safetensors").name
        why = f"{name} is not there; an index of kind 'given' has no model"
        raise DataError(f"the SID index at {folder} can't take new items", why=why, fix=fix) from None
    except (ValueError, SafetensorError) as error:
        raise DataError(f"the SID index at {folder} is broken", why=str(error), fix=fix) from None
    return item_ids, arrays


def _latent(index: SidIndex, catalog: Catalog, arrays: Arrays) -> Matrix:
    """[new items, e] what the codebooks quantise."""
    recorded = index.meta["encoder"]
    encoder, options = resolve_encoder(Choice(kind=recorded["kind"], **recorded["options"]), where="sid.encoder")
    if encoder.apply is None:
        raise UserError(
            f"the index was built by encoder {recorded['kind']!r}",
            why="it knows an item by its interactions, and a new item has none",
            fix="build with sid.encoder.kind = 'fused' or 'tfidf-svd'",
        )
    quantizer, _ = resolve_quantizer(Choice(kind=index.meta["quantizer"]["kind"]), where="sid.quantizer")
    assert quantizer.latent is not None, "an index without codebooks has no model.safetensors"
    embedding = encoder.apply(catalog, unprefixed("encoder", arrays), options)
    check_finite(embedding, catalog.item_ids)
    return quantizer.latent(embedding, unprefixed("quantizer", arrays))


def _place(index: SidIndex, points: Matrix, codebooks: list[Matrix]) -> tuple[Any, Any, Any]:
    """[n, L] codes, [n] suffixes and [n] whether the nearest path was taken; items in their order."""
    taken: dict[Path_, int] = {}  # -1: one item's alone; n: the next suffix
    for path, number in zip(map(tuple, index.codes.tolist()), index.suffix.tolist(), strict=True):
        taken[path] = -1 if number < 0 else max(taken.get(path, 0), number + 1)
    codes = np.empty((len(points), len(codebooks)), np.int32)
    suffix = np.empty(len(points), np.int32)
    moved = np.zeros(len(points), bool)
    for row, point in enumerate(points):
        path, moved[row] = _first_open(point, codebooks, taken, index.num_suffixes)
        codes[row], suffix[row] = path, taken.get(path, -1)
        taken[path] = taken[path] + 1 if path in taken else -1
    return codes, suffix, moved


def _first_open(
    point: Matrix, codebooks: list[Matrix], taken: dict[Path_, int], num_suffixes: int
) -> tuple[Path_, bool]:
    """The first path, nearest first, that has room; and whether a nearer one had none."""
    needs_token: Path_ | None = None
    for tried, path in enumerate(_paths(point, codebooks)):
        number = taken.get(path)
        if number is None or 0 <= number < num_suffixes:
            return path, tried > 0
        if number >= 0 and needs_token is None:
            needs_token = path
    if needs_token is None:
        raise UserError(
            f"all {len(taken)} paths of the index are taken, each by one item",
            why="a shared path would change the SID of the item that has it",
            fix="build the index again, with more levels or a larger codebook",
        )
    return needs_token, True


def _paths(residual: Matrix, codebooks: list[Matrix]) -> Iterator[Path_]:
    """All paths, depth first, nearest code first; of equally near ones the lowest index."""
    if not codebooks:
        yield ()
        return
    order = squared_distances(residual[None], codebooks[0])[0].argsort(kind="stable")
    for code in order.tolist():
        for rest in _paths(residual - codebooks[0][code], codebooks[1:]):
            yield (code, *rest)
