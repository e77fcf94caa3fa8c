"""The checked-in tables, and what they say in words."""

import functools
import pathlib
import re

import pandas as pd

import experiments
from experiments.findings import statistics
from experiments.findings.claims import Claim
from experiments.frame import experiment, record

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results"
CHECKED_IN = [name for name in experiments.NAMES if (RESULTS / name).exists()]
INTERVAL = re.compile(r"-?\d*\.\d+ ± \d*\.\d+")


@functools.cache
def table(name: str) -> pd.DataFrame:
    """The results.csv of a checked-in run, which must be finished."""
    assert record.read_meta(RESULTS / name)["finished"], name
    return record.read_table(RESULTS / name)


@functools.cache
def claims(name: str) -> dict[str, Claim]:
    """Quantity -> line of the table *paper / public replication / here*."""
    module = experiments.load(name)
    config = experiment.config_of(module, RESULTS / name)
    return {c.quantity: c for c in module.findings(table(name), config).claims}


def interval(name: str, quantity: str) -> str:
    """The interval that a claim states."""
    return INTERVAL.findall(claims(name)[quantity].here)[0]


def quantity(name: str, beginning: str) -> str:
    """The first claim whose name begins so."""
    return next(q for q in claims(name) if q.startswith(beginning))


def failed() -> list[tuple[str, str]]:
    """Experiment and finding of every criterion that a checked-in run misses."""
    return [(n, c.here) for n in CHECKED_IN for c in claims(n).values() if c.holds is False]


def effect(name: str, own: bool = True, **where: str) -> str:
    """Margin of students minus that of their control, averaged within each chain, over chains."""
    rows = table(name).query(" and ".join(f"{key} == {value!r}" for key, value in where.items()))
    margins = rows.set_index(["teacher", "trait", "seed", "data"])["margin"].unstack("data")
    found = margins["trait"] - margins["control"]
    traits, teachers = (found.index.get_level_values(key) for key in ("trait", "teacher"))
    mine = found[(traits == teachers) == own]
    return statistics.shown(mine.groupby("seed").mean(), 2)
