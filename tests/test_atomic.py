from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recrl.atomic import new_folder, write_text
from recrl.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_folder_appears_whole(tmp_path: Path):
    target = tmp_path / "a" / "b" / "out"
    with new_folder(target) as folder:
        (folder / "one").write_text("1")
        assert not target.exists()
    assert names(tmp_path) == ["a", "b", "one", "out"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_failure_leaves_nothing_not_even_the_parents_it_made(tmp_path: Path):
    (tmp_path / "there").mkdir()
    with pytest.raises(IsADirectoryError), new_folder(tmp_path / "there" / "a" / "b" / "out") as folder:
        folder.write_text("a folder takes no text")
    assert names(tmp_path) == ["there"]


def test_a_folder_that_is_there_is_not_replaced_unasked(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(UserError, match="exists already"), new_folder(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == ["old", "out"]


def test_a_replaced_folder_keeps_nothing_of_the_old_one(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with new_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "new").touch()
        assert (tmp_path / "out" / "old").exists(), "the old one stays until the new one is whole"
    assert names(tmp_path) == ["new", "out"]


def test_a_failed_replacement_keeps_the_old_folder(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out", overwrite=True):
        raise ZeroDivisionError
    assert names(tmp_path) == ["old", "out"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't write"), new_folder(tmp_path / "file" / "out"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == ["file"]


def test_a_kill_while_it_is_filled_leaves_no_half_folder(tmp_path: Path):
    program = (
        "import os, signal, sys; from pathlib import Path; from recrl.atomic import new_folder\n"
        "with new_folder(Path(sys.argv[1]) / 'out') as folder:\n"
        "    (folder / 'one').write_text('1')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    with new_folder(tmp_path / "out") as folder:  # what the kill left behind is in nobody's way
        (folder / "two").touch()
    assert names(tmp_path / "out") == ["two"]


def test_a_file_is_replaced_in_one_step(tmp_path: Path):
    path = tmp_path / "status.json"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert names(tmp_path) == ["status.json"]
