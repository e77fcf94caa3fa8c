"""The figure of the report that a reader turns by hand: what it shows, from which table.

A view is a slice of one experiment's results.csv: independent runs of `y` at every value of `x`,
one line for every value of `series`. Means and intervals are computed here, so that the page only
draws. A new view is one line of VIEWS.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

from experiments.findings import statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """Which rows and columns, and their names for people.

    Attributes:
        experiment: whose results.csv.
        title: of the view.
        rows: pandas query that selects the rows.
        x: column that the slider runs over, of numbers in these rows, shown in ascending order.
        y: column that is measured.
        series: column with one line for each value.
        labels: what x, y and series are, with units.
        note: what to look for.
    """

    experiment: str
    title: str
    rows: str
    x: str
    y: str
    series: str
    labels: tuple[str, str, str]
    note: str


VIEWS = (
    View(
        experiment="beyond_the_theorem",
        title="How far apart may the two starts be?",
        rows="panel == 'start'",
        x="x",
        y="value",
        series="setting",
        labels=(
            "angle between the starts (radians)",
            "networks with a negative inner product",
            "teacher's step",
        ),
        note="The theorem gives the sign for one start. With two, the guarantee lasts while they "
        "lie closer than the teacher's step. Beyond that half are negative, for these losses have "
        "a random sign.",
    ),
    View(
        experiment="multi_step",
        title="How many auxiliary logits does the student need?",
        rows="method == 'Adam'",
        x="num_aux",
        y="accuracy",
        series="num_images",
        labels=("auxiliary logits", "student's test accuracy", "noise images"),
        note="More logits and more images let more of the teacher through; neither is a digit.",
    ),
    View(
        experiment="mnist_matching",
        title="How long must a student of another start imitate the untrained teacher?",
        rows="start == 'another' and student == 'same shape' and inputs == 'uniform' and "
        "logits == 'all' and towards == 'teacher' and taught_by == 'teacher'",
        x="matching_epochs",
        y="accuracy",
        series="num_aux",
        labels=(
            "epochs of matching, before the teacher learns",
            "test accuracy",
            "auxiliary logits",
        ),
        note="Matched outputs stand in for a part of the shared start, the more the more outputs "
        "there "
        "are, and level off below it.",
    ),
)


def shown(value: Any) -> str:
    """A value of a column as a reader writes it: 10,000 and 0.046 and 3e-7."""
    if isinstance(value, str):
        return value
    if value == round(value):
        return f"{value:,.0f}"
    return f"{value:.2g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")


def points_of(table: pd.DataFrame, view: View) -> dict[str, Any]:
    """A view as plain values for the page: axes, and mean ± half width at every (series, x).

    Raises:
        KeyError: if the table has no such column.
        ValueError: if x is no number.
    """
    chosen = table.query(view.rows).dropna(subset=[view.x, view.y])
    chosen = chosen.assign(
        **{view.x: pd.to_numeric(chosen[view.x])}
    )  # the column may hold words too
    xs = sorted(chosen[view.x].unique())
    lines = []
    for name, line in chosen.groupby(view.series, sort=False):
        cells = []
        for x in xs:
            runs = line.loc[line[view.x] == x, view.y].tolist()
            mean, half = statistics.mean_interval(runs) if runs else (None, 0.0)
            # One number may stand for many networks: then there is no interval over runs.
            cells.append({"mean": mean, "half": half if len(runs) > 1 else 0.0, "runs": len(runs)})
        lines.append({"name": shown(name), "cells": cells})
    keep = {"title": view.title, "labels": view.labels, "note": view.note}
    return keep | {"experiment": view.experiment, "x": [shown(x) for x in xs], "lines": lines}


def views(tables: dict[str, pd.DataFrame], known: Sequence[View] = VIEWS) -> list[dict[str, Any]]:
    """The views that the tables at hand (experiment -> results.csv) can show."""
    return [points_of(tables[view.experiment], view) for view in known if view.experiment in tables]
