"""Start a stage, or go on with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from recrl.config import RunConfig
from recrl.device.host_memory import keep_freed_memory
from recrl.device.runtime import explained_memory
from recrl.errors import RecrlError
from recrl.run_data import RunData
from recrl.store import checkpoint
from recrl.store.run_folder import StageFolder

Report = Callable[[int, int, dict[str, float]], None]
"""Called after every step with the step, the number of steps, and its metrics."""


@dataclass(frozen=True)
class Position:
    """Where a run stands: steps done, and in SFT the epoch and the batch within it."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    elapsed_s: float = 0.0


class Stage(Protocol):
    """SFT or RL in memory."""

    config: RunConfig
    folder: StageFolder
    world: RunData
    at: Position

    def restore(self, found: checkpoint.Checkpoint) -> None: ...

    def run(self, report: Report) -> dict[str, Any]: ...


def launch(stage: Stage, report: Report, *, overwrite: bool, resume: bool) -> dict[str, Any]:
    """Run a stage from its start, or from the newest whole checkpoint; returns what ``status.json`` says."""
    if stage.world.device.type == "cpu":
        keep_freed_memory()
    folder, ranks = stage.folder, stage.world.ranks
    if not ranks.broadcast_from_first(resume and folder.started):
        folder.start(stage.config, str(stage.world.device), stage.world.dtype, overwrite=overwrite)
        ranks.barrier()
        return _run(stage, report)
    folder.check_config(stage.config)
    found = ranks.broadcast_from_first(_newest(folder.checkpoints) if ranks.is_first else None)
    if found is not None:
        stage.restore(found)
    folder.resume(stage.at.step if found is not None else -1, stage.at.elapsed_s)
    return _run(stage, report)


def _newest(folder: Path) -> checkpoint.Checkpoint | None:
    """The newest whole checkpoint, with what a kill left half done out of the way."""
    found = checkpoint.newest(folder)
    checkpoint.settle(folder, found)
    return found


def _run(stage: Stage, report: Report) -> dict[str, Any]:
    """Run, and record status `failed` where it fails."""
    try:
        with explained_memory():
            return stage.run(report)
    except RecrlError as error:
        with suppress(OSError):  # a full disk is one of the reasons to be here
            stage.folder.status("failed", reason=error.found)
        raise
