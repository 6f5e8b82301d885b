"""What a measurement is, and the two ways in which it can end without figures."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict

from recrl.bench import MEASUREMENTS
from recrl.errors import RunError


class UnequalWorkError(RunError):
    """The two sides of a comparison did not do the same work; its times would say nothing."""


class PeerMissingError(RunError):
    """What is compared with is not installed."""


class Figures(BaseModel):
    """Figures as they are kept in ``results.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Seconds(Figures):
    """Wall times of the same work, in the order they were taken."""

    runs: list[float]

    @property
    def median(self) -> float:
        return median(self.runs)


@dataclass(frozen=True)
class Setting:
    """How to measure.

    Attributes:
        quick: smaller sizes and fewer repeats.
        threads: of torch.
        say: shows a line of progress.
    """

    quick: bool
    threads: int
    say: Callable[[str], None]

    @property
    def repeats(self) -> int:
        """Times of every kind that a median is taken of."""
        return 3 if self.quick else 5


@dataclass(frozen=True)
class Measurement:
    """One section of the page.

    Attributes:
        title: of the section.
        about: what is measured and what makes the work equal, in Markdown.
        figures: the model of what ``run`` returns.
        run: measures.
        render: figures -> tables and statements in Markdown.
        plots: figures -> file name and PNG of every plot.
    """

    title: str
    about: str
    figures: type[Figures]
    run: Callable[[Setting], Figures]
    render: Callable[[Any], str]
    plots: Callable[[Any], dict[str, bytes]] = lambda _: {}


def load_measurement(name: str) -> Measurement:
    """The measurement behind a name of ``MEASUREMENTS``."""
    module, attribute = MEASUREMENTS[name].split(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, Measurement), name
    return found
