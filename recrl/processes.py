"""What torchrun tells a process of its place; without torchrun it is alone. Loads nothing."""

from __future__ import annotations

import os


def own_rank() -> int:
    """The place of this process among all of the run."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The place of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def started_together() -> int:
    """Processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))
