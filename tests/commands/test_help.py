"""``--help`` of every command works, and loads nothing that is slow to load."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from recrl.commands.main import COMMANDS, recrl

HEAVY = ("torch", "transformers", "numpy", "scipy", "sklearn", "pyarrow", "faiss", "matplotlib", "ortools", "jinja2")

PROGRAM = """
import sys
import click
from click.testing import CliRunner
from recrl.commands.main import COMMANDS, recrl

def walk(group, path):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield [*path, name]
        if isinstance(command, click.Group):
            yield from walk(command, [*path, name])

for words in walk(recrl, []):
    before = set(sys.modules)
    shown = CliRunner().invoke(recrl, [*words, "--help"])
    assert shown.exit_code == 0, (words, shown.output)
    loaded = sorted(set(%r) & (set(sys.modules) - before))
    print(" ".join(words), ":", " ".join(loaded))
"""


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += every_command(command, (*path, name))
    return found


@pytest.mark.parametrize("words", every_command(recrl), ids=" ".join)
def test_help_says_how_to_call_it(words: tuple[str, ...]):
    shown = CliRunner().invoke(recrl, [*words, "--help"], prog_name="recrl")
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith(f"Usage: recrl {' '.join(words)}")
    description = shown.output.split("\n\n")[1].strip()
    assert description.endswith((".", "?")), "the docstring of a command is its help"


def test_help_lists_every_command():
    shown = CliRunner().invoke(recrl, ["--help"])
    assert shown.exit_code == 0
    for name, summary in COMMANDS.items():
        assert f"  {name}" in shown.output
        assert summary in shown.output


def test_every_option_has_help():
    context = click.Context(recrl)
    silent = []
    for words in every_command(recrl):
        command: click.Command = recrl
        for word in words:
            assert isinstance(command, click.Group)
            command = command.get_command(context, word)  # type: ignore[assignment]
        silent += [
            (words, option.name)
            for option in command.params
            if isinstance(option, click.Option) and not option.help and not option.hidden
        ]
    assert silent == []


def test_help_of_no_command_loads_what_is_heavy():
    shown = subprocess.run([sys.executable, "-c", PROGRAM % (HEAVY,)], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert len(lines) > len(COMMANDS)
    assert [line for line in lines if not line.endswith(": ")] == []


def test_version_is_told():
    shown = CliRunner().invoke(recrl, ["--version"], prog_name="recrl")
    assert shown.exit_code == 0
    assert shown.output.startswith("recrl, version ")
