from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from recrl.commands.data import FORMATS, data
from recrl.data.dataset import load
from recrl.data.readers import READERS
from recrl.errors import UserError


def run(*arguments: str):
    return CliRunner().invoke(data, list(arguments), catch_exceptions=True)


def test_the_formats_are_the_readers_that_read():
    assert set(FORMATS) == set(READERS) - {"synthetic"}


def test_synthetic_then_recif_end_to_end(tmp_path):
    small = ("--users", "60", "--interactions", "1200", "--items", "100", "--seed", "3")
    shown = run("synthetic", "--out", str(tmp_path / "syn"), *small, "-O", "groups=2")
    assert shown.exit_code == 0, shown.output
    assert "1,200" in shown.output
    assert "optimum" in shown.output
    assert load(tmp_path / "syn").meta["options"]["groups"] == 2
    assert run("synthetic", "--recif", "--out", str(tmp_path / "raw"), *small).exit_code == 0
    shown = run("prepare", "recif", str(tmp_path / "raw"), "--out", str(tmp_path / "recif"), "--json")
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.output)["summary"]["rows"]
    prepared = load(tmp_path / "recif")
    assert rows["test"] == len(prepared.test) > 0
    assert rows["train_examples"] == len(prepared.train_examples) > 0


def test_what_was_skipped_is_shown(tmp_path):
    (tmp_path / "sequences.txt").write_text("1 1 1 1\n2 9\n")
    (tmp_path / "items.jsonl").write_text('{"id": 1, "title": "Cup"}\n')
    arguments = ("prepare", "amazon", str(tmp_path), "--out", str(tmp_path / "out"))
    assert isinstance(run(*arguments).exception, UserError)
    shown = run(*arguments, "--skip-bad-rows", "--min-core", "1", "--history-limit", "7")
    assert shown.exit_code == 0, shown.output
    assert "1 x item not in items.jsonl" in shown.output
    assert load(tmp_path / "out").meta["history_limit"] == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prepare", "amazon", "x", "--out", "y", "-O", "min_core"), "is not KEY=VALUE"),
        (("prepare", "movielens", "x", "--out", "y"), "is not one of"),
        (("synthetic", "--out", "y", "--recif", "--split", "chronological"), "--recif writes raw files"),
    ],
    ids=["pair", "format", "recif split"],
)
def test_wrong_usage_exits_with_2(arguments, words):
    shown = run(*arguments)
    assert shown.exit_code == 2
    assert words in shown.output


def test_help_loads_nothing_heavy():
    program = (
        "import sys; from click.testing import CliRunner; from recrl.commands.data import data;"
        "assert CliRunner().invoke(data, ['prepare', '--help']).exit_code == 0;"
        "print([name for name in ('torch', 'numpy', 'pyarrow', 'rich', 'pydantic') if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
        == "[]"
    )
