"""What the arms of a pretrained model say together: who speaks, and what is judged.

An arm speaks where its start and all its students still name animals: log-odds within a residue of
a thousandth are no trait. All criteria of an experiment go through one Holm correction.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments.findings import statistics
from experiments.findings.claims import ENOUGH, SHARE, Claim

FLOOR = 0.01  # of answer mass; below it an arm says nothing


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `change`: log-odds less those of the start, for all that has been trained."""
    begun = table[table["kind"] == "start"].set_index(["start", "trait"])["margin"]
    start = pd.MultiIndex.from_frame(table[["start", "trait"]])
    return table.assign(change=table["margin"] - begun.reindex(start).to_numpy())


def silent(table: pd.DataFrame, arm: pd.DataFrame) -> str:
    """Why an arm says nothing: an answer mass below FLOOR, or not recorded; empty if it speaks."""
    if arm.empty:
        return "not run"
    begun = table[(table["kind"] == "start") & table["start"].isin(arm["start"])]
    masses = pd.concat([begun["mass"], arm["mass"]]).to_numpy(float)
    if begun.empty or not np.isfinite(masses).all():
        return "says nothing: no answer mass is recorded"
    low = masses.min()
    return f"says nothing: answer mass {low:.4f} is below {FLOOR}" if low < FLOOR else ""


def by_teacher(arm: pd.DataFrame) -> pd.DataFrame:
    """Mean change over seeds: a row a teacher, a column a measured animal."""
    return arm.pivot_table(
        index="teacher", columns="trait", values="change", aggfunc="mean", dropna=False
    )


def own_effects(arm: pd.DataFrame, animals: Sequence[str]) -> np.ndarray:
    """Own effect of each of these animals that has a teacher in the arm."""
    change = by_teacher(arm)
    there = [animal for animal in animals if animal in change.index]
    return np.array(
        [
            change.loc[animal, animal]
            - np.mean([change.loc[other, animal] for other in there if other != animal])
            for animal in there
        ]
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """A claim before the correction over all of them.

    Attributes:
        claim: with its number in words.
        p: of its criterion; None where it has none, or where the arm says nothing.
        values: that it is about, one a unit; None where the arm says nothing.
    """

    claim: Claim
    p: float | None = None
    values: np.ndarray | None = None


def together(judged: Sequence[Judged]) -> list[Claim]:
    """Claims with their verdicts, Holm over all that have a criterion and animals enough."""
    tested = [one for one in judged if one.p is not None and one.claim.seeds >= ENOUGH]
    verdicts = iter(statistics.holm([one.p for one in tested if one.p is not None]))
    return [
        dataclasses.replace(
            one.claim,
            here=f"{one.claim.here}; p {one.p:.1g} (1 of {len(tested)}, Holm)",
            holds=next(verdicts),
        )
        if one in tested
        else one.claim
        for one in judged
    ]


def above(quantity: str, values: np.ndarray, why_not: str = "") -> Judged:
    """A criterion of being above zero; `why_not`: the arm says nothing, and why."""
    if why_not or not len(values):
        return Judged(claim=Claim(quantity=quantity, here=why_not or "not run"))
    claim = Claim(quantity=quantity, here=statistics.shown(values, 2), seeds=len(values))
    return Judged(claim=claim, p=statistics.above_zero_p(values), values=values)


def described(quantity: str, values: np.ndarray, why_not: str = "") -> Judged:
    """The same without a criterion; of too few animals for an interval, the value of each."""
    judged = dataclasses.replace(above(quantity, values, why_not), p=None)
    if why_not or not 0 < len(values) < ENOUGH:
        return judged
    each = " and ".join(f"{value:.2f}" for value in values)
    return dataclasses.replace(judged, claim=dataclasses.replace(judged.claim, here=each))


def none(
    quantity: str,
    values: np.ndarray,
    *,
    reference: np.ndarray,
    why_not: str = "",
    share: float = SHARE,
) -> Judged:
    """A criterion of equivalence to none within a share of the mean of the reference."""
    if why_not or not len(values):
        return Judged(claim=Claim(quantity=quantity, here=why_not or "not run"))
    mean, half = statistics.mean_interval(values, level=0.9)
    here = (
        f"{statistics.shown(values, 2)} within ±{share * reference.mean():.2f} "
        f"(smallest margin that holds alone: {abs(mean) + half:.2f})"
    )
    claim = Claim(quantity=f"{quantity}, equivalent to none", here=here, seeds=len(values))
    p = statistics.relative_equivalence_p(values, reference, share)
    return Judged(claim=claim, p=p, values=values)
