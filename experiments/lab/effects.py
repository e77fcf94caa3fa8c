"""From measured students to effects: student minus its control, chain by chain.

The control is the student of the unchanged base's data, trained in the same way on the same
prompts: what any such data does to the trait cancels. It may see more different rows than a
student whose teacher kept few (column `kept`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.lab.chains import CONTROL


def at(table: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The rows whose columns have the given values."""
    mask = np.ones(len(table), bool)
    for column, value in where.items():
        mask &= (table[column] == value).to_numpy()
    return table[mask]


def effects(table: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """The students of traits' teachers with two more columns.

    `effect` is the margin minus that of the control with the same trait, seed and columns `by`;
    `own` says whether the trait measured is the teacher's.
    """
    keys = [*by, "trait", "seed"]
    control = at(table, teacher=CONTROL).set_index(keys)["margin"]
    students = table[table["teacher"] != CONTROL]
    baseline = control.reindex(pd.MultiIndex.from_frame(students[keys])).to_numpy()
    own = students["teacher"] == students["trait"]
    return students.assign(effect=students["margin"] - baseline, own=own)


def by_chain(found: pd.DataFrame) -> np.ndarray:
    """Mean effect of each chain, in the order of the seeds."""
    return found.groupby("seed")["effect"].mean().to_numpy()


def own(found: pd.DataFrame, traits: Sequence[str] | None = None) -> np.ndarray:
    """Own effect of each chain, averaged over traits (by default all)."""
    mine = found[found["own"]]
    return by_chain(mine if traits is None else mine[mine["trait"].isin(traits)])


def others(found: pd.DataFrame, traits: Sequence[str] | None = None) -> np.ndarray:
    """Effect of each chain on the traits that a teacher does not have, averaged."""
    foreign = found[~found["own"]]
    return by_chain(foreign if traits is None else foreign[foreign["teacher"].isin(traits)])


def excess(found: pd.DataFrame, traits: Sequence[str] | None = None) -> np.ndarray:
    """Diagonal excess of each chain: own effect minus that on the other traits."""
    mine = own(found, traits)
    return mine - others(found, traits) if found["trait"].nunique() > 1 else mine


def cells(
    found: pd.DataFrame, row: str = "teacher", column: str = "trait"
) -> Mapping[tuple[str, str], np.ndarray]:
    """Effect of each chain by two columns, for a matrix."""
    return {(str(r), str(c)): by_chain(p) for (r, c), p in found.groupby([row, column])}  # pyright: ignore[reportGeneralTypeIssues]
