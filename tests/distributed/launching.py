"""Starts a script on several ranks of this machine, as a user would with torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def run_ranks(
    script: str | Path, ranks: int, *args: str | Path, timeout_s: float = 240, ahead: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Python script on ``ranks`` processes, as ``start_ranks`` starts it, to its end.

    Args:
        timeout_s: when it is over all ranks are killed, and ``subprocess.TimeoutExpired`` is raised.

    Returns:
        What all ranks wrote to either output is in ``stdout``.
    """
    process = start_ranks(script, ranks, *args, ahead=ahead)
    try:
        said, _ = process.communicate(timeout=timeout_s)
    except BaseException:
        _end(process)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, said)


def start_ranks(script: str | Path, ranks: int, *args: str | Path, ahead: Path | None = None) -> subprocess.Popen[str]:
    """Start a Python script on ``ranks`` processes of one thread each, which meet at a free port.

    Args:
        script: a path, or a file's name in this folder.
        ahead: a folder of packages that the ranks find before the installed ones.
    """
    paths = [str(path) for path in (ahead, TESTS, os.environ.get("PYTHONPATH")) if path]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    # Behind "--" torchrun reads no option of ours as one of its own, such as --run.
    command = [*torchrun, "--", str(TESTS / "distributed" / script), *map(str, args)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def _end(process: subprocess.Popen[str]) -> None:
    """The launcher starts every rank in a session of its own, and ends them when it is asked to end."""
    process.terminate()
    try:
        process.wait(timeout=40)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
