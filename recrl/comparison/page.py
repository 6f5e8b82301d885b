"""``report.html``: the figures of a comparison as one page that needs nothing beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recrl.comparison.figures import Comparison, Curve, Training
from recrl.comparison.markdown import environment
from recrl.comparison.tables import tables
from recrl.comparison.words import verdicts, warnings
from recrl.report.collect import Series
from recrl.report.plots import Line, line_plot

RESPONSES, STEPS = "responses generated", "optimiser steps"
SHARES = {
    "all_zero": "Groups without a hit",
    "single_hit": "Groups with one hit",
    "trainable": "Groups with a gradient",
}


@dataclass(frozen=True)
class Figure:
    """A plot with its words."""

    title: str
    svg: Markup
    alt: str


def page(found: Comparison) -> str:
    """The page's HTML."""
    templates = Environment(
        loader=ChoiceLoader([PackageLoader("recrl.comparison", ""), PackageLoader("recrl.report", "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return templates.get_template("comparison.html.j2").render(
        found=found,
        verdicts=verdicts(found),
        warnings=warnings(found),
        environment=environment(found),
        tables=tables(found),
        learning=_learning(found.training) if found.training else [],
        health=_health(found.training) if found.training else [],
    )


def _learning(training: dict[str, Training]) -> list[Figure]:
    """Validation NDCG@10 against both costs."""
    by_cost = {
        RESPONSES: {recipe: one.by_responses for recipe, one in training.items()},
        STEPS: {recipe: one.by_optimizer_steps for recipe, one in training.items()},
    }
    return [
        _figure(f"Validation NDCG@10 against {cost}", curves, "NDCG@10", cost, f"learning{number}")
        for number, (cost, curves) in enumerate(by_cost.items())
    ]


def _health(training: dict[str, Training]) -> list[Figure]:
    return [
        _figure(
            title, {recipe: one.shares[name] for recipe, one in training.items()}, "share of groups", RESPONSES, name
        )
        for name, title in SHARES.items()
    ]


def _figure(title: str, curves: dict[str, Curve], y_label: str, x_label: str, plot_id: str) -> Figure:
    lines = [_line(recipe, curve) for recipe, curve in curves.items()]
    shares = y_label != "NDCG@10"
    svg = line_plot(lines, y_label=y_label, x_label=x_label, plot_id=plot_id, ratio=shares, smooth=False)
    ends = "; ".join(
        f"{recipe} from {curve.mean[0]:.4g} at {curve.x[0]:,.0f} to {curve.mean[-1]:.4g} at {curve.x[-1]:,.0f}"
        for recipe, curve in curves.items()
    )
    # Markup is right here: the SVG holds our own words, numbers, and recipes' names: letters, digits, ._- alone.
    return Figure(title, Markup(svg), f"{title}, means over seeds: {ends}.")


def _line(recipe: str, curve: Curve) -> Line:
    series = Series(np.array(curve.x), np.array(curve.mean))
    return Line(recipe, series, np.array([curve.low, curve.high]))
