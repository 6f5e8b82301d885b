"""Functions in a fresh process each: ``run_child`` here, ``python -m recrl.bench.child module:function`` there.

A function takes a dict and returns one; both travel as JSON.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from recrl.errors import RunError


def run_child(function: str, given: dict[str, Any]) -> dict[str, Any]:
    """What ``function`` ("module:name") returns for ``given``.

    Raises:
        RunError: the process failed, out of memory perhaps.
    """
    with tempfile.TemporaryDirectory() as name:
        answer = Path(name) / "answer.json"
        # -P: the current folder may hold one called like a package (our own checkout holds `kernels`).
        words = [sys.executable, "-P", "-m", "recrl.bench.child", function, str(answer)]
        done = subprocess.run(words, input=json.dumps(given), capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise RunError(f"{function} failed in a process of its own ({done.returncode})", why=last)
        found: dict[str, Any] = json.loads(answer.read_text())
    return found


def main() -> None:
    """Read JSON from standard input, call, write JSON to the file."""
    module, name = sys.argv[1].split(":")
    found = getattr(importlib.import_module(module), name)(json.loads(sys.stdin.read()))
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
