"""McAuley's Amazon reviews of 2014 and 2018 as published: one JSON object a line, plain or gzip.

A folder holds one ``meta_*.json[.gz]`` and one other ``*.json[.gz]`` (``reviews_Beauty.json.gz`` in 2014,
``Industrial_and_Scientific.json.gz`` in 2018). Reviews: ``reviewerID``, ``asin``, ``overall``, ``unixReviewTime``.
Metadata: ``asin``, ``title``, ``brand``, ``description`` and ``categories`` (2014: a list of paths) or ``category``
(2018: one path). Lines of the 2014 metadata are Python literals, not JSON.
"""

from __future__ import annotations

import ast
import html
import json
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from recrl.data.dataset import Catalog
from recrl.data.log import BadRows, InteractionLog, sorted_log
from recrl.data.readers.lines import filled, text_lines
from recrl.errors import DataError

SUFFIXES = (".json", ".json.gz", ".jsonl", ".jsonl.gz")


def read_raw(source: Path, bad_rows: BadRows, *, drop_repeats: bool) -> InteractionLog:
    """The whole log, before any filter.

    Raises:
        DataError: it is unclear which file is which, one is broken, or a row can't be used.
    """
    reviews, meta = _find(source)
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    user_rows, item_rows, times, ratings = array("i"), array("i"), array("q"), array("f")
    for number, line in text_lines(reviews):
        row = _parse(line)
        problem = _problem(row)
        if problem:
            bad_rows.add(reviews, number, *problem)
            continue
        assert row is not None
        user_rows.append(users.setdefault(row["reviewerID"], len(users)))
        item_rows.append(items.setdefault(row["asin"], len(items)))
        times.append(int(row["unixReviewTime"]))
        ratings.append(float(row.get("overall", np.nan)))
    filled(reviews, len(users))
    catalog, without_meta = _read_meta(meta, items, bad_rows)
    log = sorted_log(
        np.array(user_rows, np.int32),
        np.array(item_rows, np.int32),
        np.array(times, np.int64),
        np.array(ratings, np.float32),
        catalog,
        list(users),
        {"items_without_metadata": without_meta},
    )
    return _first_of_repeats(log) if drop_repeats else log


def _find(source: Path) -> tuple[Path, Path]:
    files = sorted(path for path in source.iterdir() if path.name.endswith(SUFFIXES))
    metas = [path for path in files if path.name.startswith("meta_")]
    reviews = [path for path in files if path not in metas]
    if len(metas) == 1 and len(reviews) == 1:
        return reviews[0], metas[0]
    found = ", ".join(path.name for path in files) or "no JSON file"
    raise DataError(
        f"{source} holds {found}",
        why="the amazon reader takes sequences.txt + items.jsonl, or one reviews file + one meta_*.json[.gz]",
        fix="put one of the two pairs into the folder",
    )


def _parse(line: str) -> dict[str, Any] | None:
    """One object, or None. 2014's metadata are Python literals: ``literal_eval`` reads them and runs nothing."""
    try:
        row = json.loads(line)
    except ValueError:
        try:
            row = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return row if isinstance(row, dict) else None


def _problem(row: dict[str, Any] | None) -> tuple[str, str] | None:
    if row is None:
        return "not a JSON object", ""
    for key in ("reviewerID", "asin"):
        if not isinstance(row.get(key), str) or not row[key]:
            return "a review without user or item", f"{key} = {row.get(key)!r}"
    time = row.get("unixReviewTime")
    if isinstance(time, bool) or not isinstance(time, int):
        return "unixReviewTime is not an integer", repr(time)
    rating = row.get("overall")
    if rating is not None and not isinstance(rating, int | float):
        return "overall is not a number", repr(rating)
    return None


def _read_meta(path: Path, items: dict[str, int], bad_rows: BadRows) -> tuple[Catalog, int]:
    """Texts of the reviewed items (the files describe many more); items that the file does not name get none."""
    titles, descriptions, brands, categories = ([""] * len(items) for _ in range(4))
    seen: set[str] = set()
    for number, line in text_lines(path):
        row = _parse(line)
        if row is None or not isinstance(row.get("asin"), str):
            bad_rows.add(path, number, "not a JSON object with asin")
            continue
        asin = row["asin"]
        if asin not in items:
            continue
        if asin in seen:  # the 2018 files hold whole blocks twice
            if _clean(row.get("title")) != titles[items[asin]]:
                bad_rows.add(path, number, "duplicate item id with another title", f"asin {asin}")
            continue
        seen.add(asin)
        at = items[asin]
        titles[at], brands[at] = _clean(row.get("title")), _clean(row.get("brand"))
        descriptions[at] = _clean(row.get("description"))
        categories[at] = "".join(_path(row)[1:2])
    return Catalog(list(items), titles, descriptions, brands, categories), len(items) - len(seen)


def _path(row: dict[str, Any]) -> list[str]:
    """The category path: 2018's ``category``, or the first of 2014's ``categories``."""
    path = row.get("category") or next(iter(row.get("categories") or ()), ())
    return [html.unescape(name).strip() for name in path if isinstance(name, str)]


def _clean(value: Any) -> str:
    """Text on one line; 2018's descriptions are lists of paragraphs."""
    parts = value if isinstance(value, list) else [value]
    return " ".join(html.unescape(" ".join(part for part in parts if isinstance(part, str))).split())


def _first_of_repeats(log: InteractionLog) -> InteractionLog:
    assert log.times is not None
    assert log.ratings is not None
    _, first = np.unique(np.stack([log.users, log.items, log.times]), axis=1, return_index=True)
    keep = np.sort(first)
    notes = log.notes | {"repeats_dropped": len(log) - len(keep)}
    return InteractionLog(
        log.users[keep], log.items[keep], log.times[keep], log.ratings[keep], log.catalog, log.user_ids, notes
    )
