"""How the ahead-of-time gates end."""

from __future__ import annotations

from pathlib import Path

import pytest

from recrl.errors import RunError
from recrl.kernels.aot_table import settle


def refuse() -> str:
    raise RunError("one spills 12 bytes")


def test_a_table_is_written_unless_it_is_only_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "TABLE.md"
    assert settle(table, lambda: "a\nb\n", check=False, command="python -m gate") == 0
    assert table.read_text() == "a\nb\n"
    assert settle(table, lambda: "a\nb\n", check=True, command="python -m gate") == 0
    assert capsys.readouterr().err == ""
    assert settle(table, lambda: "a\nc\n", check=True, command="python -m gate") == 1
    shown = capsys.readouterr().err
    assert "TABLE.md is out of date" in shown
    assert "-b\n+c\n  Fix: run python -m gate" in shown
    assert table.read_text() == "a\nb\n"


def test_a_kernel_that_must_not_be_shipped_leaves_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "TABLE.md"
    table.write_text("as it was")
    assert settle(table, refuse, check=False, command="python -m gate") == 1
    assert "one spills 12 bytes" in capsys.readouterr().err
    assert table.read_text() == "as it was"
