"""The log that the examples and the recipes' tests begin with."""

from __future__ import annotations

import runpy
from pathlib import Path

from recrl.data.prepare import prepare

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"


def test_the_script_beside_the_log_writes_it(tmp_path: Path) -> None:
    runpy.run_path(str(SHOP / "make.py"))["main"](tmp_path)
    for name in ("items.jsonl", "sequences.txt"):
        assert (tmp_path / name).read_text() == (SHOP / name).read_text()


def test_it_is_read_without_a_bad_row(tmp_path: Path) -> None:
    summary = prepare("amazon", SHOP, tmp_path / "data")["summary"]
    assert summary["skipped_rows"]["count"] == 0
    assert (summary["users"], summary["items"], summary["interactions"]) == (800, 300, 8_000)
