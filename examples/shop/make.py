"""Write the log of a made-up shop beside this file: ``python examples/shop/make.py``.

``sequences.txt`` and ``items.jsonl`` are what a shop might export (docs/data.md, format `amazon`). Nobody is in them:
users, items and words come from recrl's marketplace.
"""

from __future__ import annotations

import json
from pathlib import Path

from recrl.data.log import BadRows
from recrl.data.marketplace import MarketOptions
from recrl.data.readers.synthetic import read

OPTIONS = MarketOptions(users=800, items=300, interactions=8_000, categories=10, optimum_rows=0)


def main(folder: Path = Path(__file__).parent) -> None:
    log = read(None, OPTIONS, BadRows())
    catalog = log.catalog
    items = [
        {"id": item, "title": title, "brand": brand, "l2": category}
        for item, title, brand, category in zip(
            range(1, len(catalog) + 1), catalog.titles, catalog.brands, catalog.categories, strict=True
        )
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    rows: dict[int, list[int]] = {}
    for user, item in zip(log.users.tolist(), log.items.tolist(), strict=True):
        rows.setdefault(user + 1, []).append(item + 1)
    (folder / "sequences.txt").write_text("".join(f"{user} {' '.join(map(str, row))}\n" for user, row in rows.items()))


if __name__ == "__main__":
    main()
