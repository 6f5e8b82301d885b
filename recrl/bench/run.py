"""Run measurements one after the other; what was measured is on disk before the next begins."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from recrl.bench import MEASUREMENTS
from recrl.bench.measurement import PeerMissingError, Setting, UnequalWorkError, load_measurement
from recrl.bench.page import Entry, Results, read_results, this_machine, write_results
from recrl.errors import UserError


def run_bench(
    only: Sequence[str], *, quick: bool, threads: int, page: Path, say: Callable[[str], None]
) -> dict[str, Entry]:
    """Measure, and write the page after every measurement; sections of others stay as they are.

    Args:
        only: names of ``MEASUREMENTS``; empty for all.
        page: the Markdown file; ``results.json`` and ``plots`` go beside it.

    Returns:
        What was measured now, refused and skipped ones among it.

    Raises:
        UserError: the page can't be written; nothing was measured.
    """
    results = read_results(page)
    _write(page, results)  # a folder that can't be written had better be known now
    command = command_line(only, quick=quick, threads=threads)
    names = [name for name in MEASUREMENTS if not only or name in only]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in names:
            results[name] = _measure(name, Setting(quick, threads, say), command)
            if results[name].state != "measured":
                say(f"{name}: {results[name].state}: {results[name].reason}")
            _write(page, results)
    finally:
        torch.set_num_threads(before)
    return {name: results[name] for name in names}


def command_line(only: Sequence[str], *, quick: bool, threads: int) -> str:
    """The command that measures the same again."""
    words = ["recrl", "bench", "engine", "--threads", str(threads)]
    words += ["--quick"] if quick else []
    return shlex.join([*words, *(word for name in only for word in ("--only", name))])


def _measure(name: str, setting: Setting, command: str) -> Entry:
    measurement = load_measurement(name)
    about = {"command": command, "quick": setting.quick, "threads": setting.threads, "machine": this_machine()}
    begin = time.perf_counter()
    try:
        figures = measurement.run(setting)
    except PeerMissingError as error:
        return Entry.model_validate(about | {"state": "not measured", "reason": _sentence(error), "seconds": 0.0})
    except UnequalWorkError as error:
        return Entry.model_validate(about | {"state": "refused", "reason": _sentence(error), "seconds": 0.0})
    seconds = time.perf_counter() - begin
    return Entry.model_validate(
        about | {"state": "measured", "seconds": seconds, "figures": figures.model_dump(mode="json")}
    )


def _sentence(error: PeerMissingError | UnequalWorkError) -> str:
    """An error in one line."""
    return "; ".join(part for part in (error.found, error.why, error.fix) if part)


def _write(page: Path, results: Results) -> None:
    try:
        write_results(page, results)
    except OSError as error:
        raise UserError(
            f"can't write {page}", why=error.strerror or str(error), fix="choose another place with --out"
        ) from None
