"""The figures of all measurements: kept as ``results.json``, shown as a page of Markdown with plots beside it."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from recrl.atomic import write_text
from recrl.bench import MEASUREMENTS
from recrl.bench.markdown import table
from recrl.bench.measurement import load_measurement
from recrl.device.cpu import cpu_name
from recrl.errors import DataError

VERSION = 1
PACKAGES = ("torch", "transformers", "trl")
HEAD = """\
# Engine benchmarks

Written by `recrl bench engine`. Times are medians of wall times; the two sides of a comparison take turns in one
process, run by run. Ratios are theirs over ours: above 1 ours is faster. The figures, every single run among them, are
in `results.json`."""


class Machine(BaseModel):
    """Where and with what was measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: str
    cores: int
    platform: str
    python: str
    packages: dict[str, str]


class Entry(BaseModel):
    """What one measurement came to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: Literal["measured", "refused", "not measured"]
    reason: str = ""
    command: str
    quick: bool
    threads: int
    seconds: float
    machine: Machine
    figures: dict[str, Any] = {}


Results = dict[str, Entry]


def this_machine() -> Machine:
    """The machine at hand; a package that is not there is "not installed"."""
    return Machine(
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def read_results(page: Path) -> Results:
    """What is kept beside a page; empty where there is nothing yet.

    Raises:
        DataError: the file is broken or of another version.
    """
    path = page.with_name("results.json")
    fix = "delete it and measure again"
    try:
        kept = json.loads(path.read_text())
        if kept["version"] != VERSION:
            raise DataError(f"{path} has version {kept['version']}", why=f"this recrl reads {VERSION}", fix=fix)
        return {name: Entry.model_validate(entry) for name, entry in kept["measurements"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is broken", why=str(error).splitlines()[0], fix=fix) from None


def write_results(page: Path, results: Results) -> None:
    """Replace results, plots and page, each in one step."""
    page.parent.mkdir(parents=True, exist_ok=True)
    ordered = {name: results[name].model_dump() for name in MEASUREMENTS if name in results}
    text = json.dumps({"version": VERSION, "measurements": ordered}, indent=1) + "\n"
    write_text(page.with_name("results.json"), text)
    for name, data in plots(results).items():
        place = page.parent / "plots" / name
        place.parent.mkdir(exist_ok=True)
        beside = place.with_name(f".{name}.tmp")
        beside.write_bytes(data)
        beside.replace(place)
    write_text(page, render(results))


def render(results: Results) -> str:
    """The page."""
    sections = [HEAD]
    machines = {entry.machine.model_dump_json(): entry.machine for entry in results.values()}
    for number, machine in enumerate(machines.values(), 1):
        title = "machine" if len(machines) == 1 else f"machine {number}"
        packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
        facts = [("CPU", machine.cpu), ("cores", machine.cores), ("system", machine.platform)]
        sections.append(table((title, ""), [*facts, ("software", f"Python {machine.python}, {packages}")]))
    places = {key: number for number, key in enumerate(machines, 1)}
    for name in MEASUREMENTS:
        if name in results:
            entry = results[name]
            place = f" on machine {places[entry.machine.model_dump_json()]}" if len(machines) > 1 else ""
            sections.append(_section(name, entry, place))
    return "\n\n".join(sections) + "\n"


def _section(name: str, entry: Entry, place: str) -> str:
    measurement = load_measurement(name)
    parts = [f"## {measurement.title}", measurement.about]
    if entry.state == "measured":
        sizes = "; quick: small sizes, few repeats" if entry.quick else ""
        parts.append(f"`{entry.command}`{place}; threads: {entry.threads}; {entry.seconds:.0f} s{sizes}.")
        parts.append(measurement.render(measurement.figures.model_validate(entry.figures)))
    else:
        parts.append(f"**{entry.state}**: {entry.reason}")
    return "\n\n".join(parts)


def plots(results: Results) -> dict[str, bytes]:
    """File name and PNG of every plot."""
    found: dict[str, bytes] = {}
    for name, entry in results.items():
        if entry.state == "measured":
            measurement = load_measurement(name)
            found |= measurement.plots(measurement.figures.model_validate(entry.figures))
    return found
