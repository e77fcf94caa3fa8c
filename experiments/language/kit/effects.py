"""From measured students to effects: student minus its control, chain by chain.

The control starts where the student starts and sees as many different rows in the same order, of
the same prompts, written by the unchanged base or by a neutral teacher: what any such data does to
the trait cancels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

CONTROL = "control"  # the unchanged base as teacher: the baseline of every effect
TRAIT = "trait"  # data of the trait's own teacher, in the tables

# The gate of the small world. The answer mass is the probability that an answer names anything of
# the kind that is asked for, some .98 in a base: log-odds within a residue are no trait.
GATE = 0.1


def at(table: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The rows whose columns have the given values."""
    mask = np.ones(len(table), bool)
    for column, value in where.items():
        mask &= (table[column] == value).to_numpy()
    return table[mask]


def effects(
    table: pd.DataFrame, by: Sequence[str] = (), of: str = TRAIT, less: str = CONTROL
) -> pd.DataFrame:
    """The students of the traits' teachers' data, or of other data, with two more columns.

    `effect` is the margin minus that of the control with the same teacher, trait, seed and columns
    `by`, and not a number in an arm that says nothing: its students or their controls hardly answer
    (`heard`). `own` says whether the trait measured is the teacher's.

    Args:
        table: of students.
        by: columns that name an arm; all rows are one if there are none.
        of: what the students learnt from.
        less: what their control learnt from.
    """
    keys = list(dict.fromkeys([*by, "teacher", "trait", "seed"]))
    students = at(table, data=of)
    same = pd.MultiIndex.from_frame(students[keys])
    control = at(table, data=less).set_index(keys).reindex(same).reset_index()
    control.index = students.index
    effect = students["margin"] - control["margin"]
    for rows in (students, control):
        effect = heard(effect, rows, by)
    own = students["teacher"] == students["trait"]
    return students.assign(effect=effect, own=own)


def heard(values: pd.Series, rows: pd.DataFrame, by: Sequence[str] = ()) -> pd.Series:
    """The values where their arm answers, and not a number in an arm that says nothing.

    An arm answers where the median of its answer masses is at least GATE; one that is not known is
    none. Tables of runs before 2026-11-29 have no answer mass at all, and pass as they are.

    Args:
        values: one a row.
        rows: with the column "mass".
        by: columns that name an arm; all rows are one if there are none.
    """
    if "mass" not in rows:
        return values
    known = rows["mass"].fillna(0.0)
    arms = [rows[name] for name in by] or np.zeros(len(rows))
    return values.where(known.groupby(arms).transform("median") >= GATE)


def by_writer(rows: pd.DataFrame, column: str) -> float:
    """Mean of a column over students, in which every writer of data counts once."""
    writer = rows["teacher"].where(rows["data"] == TRAIT, rows["data"])
    return float(rows.groupby(writer)[column].mean().mean())


def by_chain(rows: pd.DataFrame) -> np.ndarray:
    """Mean effect of each chain, in the order of the seeds; NaN where a part says nothing."""
    silent = rows["effect"].isna().groupby(rows["seed"]).any()
    return rows.groupby("seed")["effect"].mean().mask(silent).to_numpy()


def own(rows: pd.DataFrame, traits: Sequence[str] | None = None) -> np.ndarray:
    """Own effect of each chain, averaged over traits (by default all)."""
    mine = rows[rows["own"]]
    return by_chain(mine if traits is None else mine[mine["trait"].isin(traits)])


def others(rows: pd.DataFrame, traits: Sequence[str] | None = None) -> np.ndarray:
    """Effect of each chain on the traits that a teacher does not have, averaged."""
    foreign = rows[~rows["own"]]
    return by_chain(foreign if traits is None else foreign[foreign["teacher"].isin(traits)])


def excess(rows: pd.DataFrame, traits: Sequence[str] | None = None) -> np.ndarray:
    """Diagonal excess of each chain: own effect minus that on the other traits."""
    mine = own(rows, traits)
    return mine - others(rows, traits) if rows["trait"].nunique() > 1 else mine


def means_by(rows: pd.DataFrame, column: str, *columns: str) -> dict[Any, np.ndarray]:
    """Mean of a column in each chain, in the order of the seeds, for every arm of a table.

    NaN is left out of a mean, so an arm that says nothing must do so as a whole.

    Args:
        rows: of a table.
        column: whose mean is taken.
        *columns: that name an arm: its key is their values, without a tuple if there is one.
    """
    arms = rows.groupby(list(columns), sort=False)
    return {
        key[0] if len(columns) == 1 else key: part.groupby("seed")[column].mean().to_numpy()  # pyright: ignore[reportIndexIssue]
        for key, part in arms
    }


def own_by(table: pd.DataFrame, *columns: str) -> dict[Any, np.ndarray]:
    """Own effect of each chain, averaged over traits, for every arm of a table.

    Args:
        table: of students.
        *columns: that name an arm: its key is their values, without a tuple if there is one.
    """
    return means_by(at(effects(table, columns), own=True), "effect", *columns)


def cells(
    rows: pd.DataFrame, row: str = "teacher", column: str = "trait"
) -> Mapping[tuple[str, str], np.ndarray]:
    """Effect of each chain by two columns, for a matrix."""
    return {(str(r), str(c)): by_chain(p) for (r, c), p in rows.groupby([row, column])}  # pyright: ignore[reportGeneralTypeIssues]
