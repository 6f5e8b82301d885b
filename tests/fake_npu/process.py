"""Processes of their own: torch loads its devices once, so none of them may be loaded into the suite's own process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SITE = HERE / "site"
"""What holds the stand-in for torch-npu."""
TIMEOUT_S = 240
COMMAND = "from recrl.commands.main import main; main()"
"""The command line."""
NO_TRITON = "import sys; sys.modules['triton'] = None\n"
"""A machine without Triton: ``find_spec`` then finds none."""

Done = subprocess.CompletedProcess[str]


def start(code: str, *arguments: str, folder: Path, paths: Sequence[Path] = (), **variables: str) -> Done:
    """Run ``code`` in ``folder``, with further import paths and environment variables."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*paths, HERE.parent)))} | variables
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)


@dataclass(frozen=True)
class FakeNpu:
    """Starts processes whose torch has the device, as one with the real torch-npu would have it."""

    library: Path

    def start(self, code: str, *arguments: str, folder: Path, triton: bool = False, **variables: str) -> Done:
        """Without Triton unless asked for: the stock build knows no NPU."""
        own = {"FAKE_NPU_LIBRARY": str(self.library)} | variables
        return start(code if triton else NO_TRITON + code, *arguments, folder=folder, paths=[SITE], **own)

    def run(self, code: str, *arguments: str, folder: Path, triton: bool = False, **variables: str) -> str:
        """What the process printed; fails where it did."""
        done = self.start(code, *arguments, folder=folder, triton=triton, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout
