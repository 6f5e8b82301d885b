"""The ``recrl`` command: a group that loads a subcommand's file when it is called, and exit codes in one place."""

from __future__ import annotations

import errno
import importlib
import io
import logging
import sys
import time
from contextlib import nullcontext, redirect_stdout
from typing import Any

import click

from recrl import __version__
from recrl.device.loading import explain_broken_npu
from recrl.errors import RecrlError
from recrl.processes import own_rank

DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
COMMANDS = {
    "bench": "Measure the engine and compare recipes.",
    "config": "Show, explain and start a run's config.",
    "data": "Prepare data sets.",
    "demo": "Run the whole path on synthetic data.",
    "doctor": "Say what this machine has.",
    "eval": "Evaluate runs and checkpoints side by side.",
    "launch": "Start a run on many devices.",
    "profile": "Describe machines and plan runs on them.",
    "recipe": "List, show and compare methods.",
    "recommend": "Recommend items to a user.",
    "report": "Write a run's report page.",
    "rl": "Train by reinforcement learning.",
    "sft": "Train by supervised fine-tuning.",
    "sid": "Build and extend semantic IDs.",
    "tune": "Choose a memory's weight on validation.",
}


class LazyGroup(click.Group):
    """Lists commands without importing them, so that ``--help`` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"recrl.commands.{cmd_name}")
        command: click.Command = getattr(module, cmd_name if cmd_name != "eval" else "evaluate")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="recrl")
@click.option("-v", "--verbose", is_flag=True, help="Log what is chosen and why.")
def recrl(verbose: bool) -> None:
    """Post-train language models into generative recommenders: data, semantic IDs, SFT, RL, evaluation."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a ``RecrlError`` becomes its message and its exit code, without a traceback."""
    rank = own_rank()  # under torchrun the first process speaks for all
    silent = redirect_stdout(io.StringIO()) if rank else nullcontext()
    try:
        with silent, explain_broken_npu():
            recrl.main(arguments, prog_name="recrl")
    except RecrlError as error:
        _fail(str(error), error.exit_code, rank)
    except OSError as error:
        # A full disk or a folder taken away in mid-run: nothing that the config could have told.
        if error.errno not in DISK_FAILURES:
            raise
        name = error.filename or "the disk"
        _fail(f"{name}: {error.strerror}\n  Fix: make room, then go on with --resume", 1, rank)


def run() -> None:
    """The program: a command, and after success the shutdown of the process group.

    Threads that still carry their connections would abort the interpreter as it ends. After a failure nothing is waited
    for: torchrun ends the others.
    """
    try:
        main()
    except SystemExit as end:
        if not end.code and "recrl.backends.ranks" in sys.modules:
            importlib.import_module("recrl.backends.ranks").leave()
        raise


def _fail(message: str, code: int, rank: int) -> None:
    if rank:
        # What is wrong is mostly wrong everywhere: the first process says it, and torchrun ends the others meanwhile.
        time.sleep(2)
        message = f"process {rank}: {message}"
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    run()
