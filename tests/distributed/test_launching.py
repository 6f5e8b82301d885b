"""The tests' own launcher: its ranks meet, a failure is told, and nothing is left running."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil
import pytest
from distributed.launching import run_ranks

MEET = """
import sys
from pathlib import Path
import torch
from torch import distributed
distributed.init_process_group("gloo")
ranks = torch.tensor([distributed.get_rank() + 1])
distributed.all_reduce(ranks)
(Path(sys.argv[1]) / f"rank-{distributed.get_rank()}").write_text(str(int(ranks)))
distributed.destroy_process_group()
"""
FAIL = """
import os
raise SystemExit("rank 1 gives up" if os.environ["RANK"] == "1" else 0)
"""
STAY = """
import os, sys, time
from pathlib import Path
(Path(sys.argv[1]) / os.environ["RANK"]).write_text(str(os.getpid()))
time.sleep(600)
"""


def written(folder: Path, text: str) -> Path:
    script = folder / "script.py"
    script.write_text(text)
    return script


def test_ranks_meet(tmp_path: Path) -> None:
    done = run_ranks(written(tmp_path, MEET), 2, tmp_path)
    assert done.returncode == 0, done.stdout
    assert [path.read_text() for path in sorted(tmp_path.glob("rank-*"))] == ["3", "3"]


def test_a_rank_that_fails_is_told(tmp_path: Path) -> None:
    done = run_ranks(written(tmp_path, FAIL), 2)
    assert done.returncode != 0
    assert "rank 1 gives up" in done.stdout


def test_ranks_that_stay_too_long_are_ended(tmp_path: Path) -> None:
    script = written(tmp_path, STAY)
    with pytest.raises(subprocess.TimeoutExpired):
        run_ranks(script, 2, tmp_path, timeout_s=25)
    started = [int((tmp_path / str(rank)).read_text()) for rank in range(2)]
    limit = time.monotonic() + 60
    while any(psutil.pid_exists(pid) for pid in started):
        assert time.monotonic() < limit, "a rank is still there"
        time.sleep(0.1)
