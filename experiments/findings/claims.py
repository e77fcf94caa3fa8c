"""What a run found: claims beside what others reported, and figures of one claim each.

effect = {"same": values, "different": values}                # one value a chain
(same,) = corrected(claim_of("same", effect["same"], criterion="above"))
claims = [same, *no_effect({"different": (effect["different"], effect["same"])})]
title = say(claims, holds="... transmits", fails="... does not", open="Does ... transmit?")
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVarTuple

import matplotlib.figure
import numpy as np

from experiments.findings import statistics

SILENT = "says nothing: too few of its answers name anything of the kind"
ENOUGH = 4  # chains; fewer decide nothing
SHARE = 0.2  # of the reference's effect: what still counts as no effect

Groups = TypeVarTuple("Groups")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One line of the table *paper / public replication / here*.

    Attributes:
        quantity: what is measured, with its unit.
        paper: value in arXiv 2507.14805, or empty.
        replication: value of a public replication with its source, or empty.
        here: value of this run with its 95 % interval.
        seeds: number of independently trained runs behind `here`.
        holds: whether the criterion stated before the run is met; None if there is none.
        p: of the one-sided t test that a mean is above zero, where that is the criterion, until
            `corrected` has judged it.
    """

    quantity: str
    paper: str = ""
    replication: str = ""
    here: str = ""
    seeds: int = 0
    holds: bool | None = None
    p: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One claim as a picture and three short sentences.

    Attributes:
        name: of the files, without ending.
        title: the claim, in one sentence; what `say` makes of the claims it rests on.
        predicted: what was expected before the run, and why.
        found: what the table says, its numbers taken from there.
        follows: what it means.
        draw: makes the picture.
    """

    name: str
    title: str
    predicted: str
    found: str
    follows: str
    draw: Callable[[], matplotlib.figure.Figure]


class Findings(NamedTuple):
    """All that a table says; the first figure is called "figure"."""

    figures: list[Figure]
    claims: list[Claim]


def claim_of(
    quantity: str,
    values: np.ndarray,
    *,
    criterion: str | None = None,
    paper: str = "",
    here: str = "",
) -> Claim:
    """A mean over chains as a line of the table.

    Args:
        quantity: what is measured.
        values: one per chain; not a number where an arm says nothing, and then nothing is judged.
        criterion: whether the 95 % interval must lie "above" zero or "covers" it; judged from four
            chains on, fewer decide nothing. "above" is said of what `corrected` returns only.
        paper: what the paper reports.
        here: text in place of mean and interval.
    """
    if not np.isfinite(values).all():
        return Claim(quantity=quantity, paper=paper, here=SILENT, seeds=len(values))
    mean, half = statistics.mean_interval(values)
    verdict = {"above": mean - half > 0, "covers": abs(mean) <= half, None: None}
    stated = criterion if len(values) >= ENOUGH else None
    return Claim(
        quantity=quantity,
        paper=paper,
        here=here or statistics.shown(values, 2),
        seeds=len(values),
        holds=verdict[stated],
        p=statistics.above_zero_p(values) if stated == "above" else None,
    )


def corrected(*groups: *Groups) -> tuple[*Groups]:
    """The same groups, their claims of "above zero" corrected by Holm over all of them.

    A single 95 % interval above zero is a one-sided test at a fortieth, and that is the level that
    the whole family keeps here, so nothing holds that did not hold singly. The family is all that
    an experiment says to be above zero, in its table or in a caption alone: one call, before the
    figures are made. Tables and sentences refuse a claim that was in none.

    Args:
        *groups: a claim each, or a list, tuple or dict of groups.
    """
    family: list[Claim] = []
    _each(groups, family.append)
    tested = [claim.p for claim in family if claim.p is not None]
    verdicts = iter(statistics.holm(tested, alpha=0.025))

    def judge(claim: Claim) -> Claim:
        if claim.p is None:
            return claim
        stands = next(verdicts)
        holds = None if claim.holds is None else claim.holds and stands
        mark = f" (p {claim.p:.1g}, Holm over {len(tested)})" if len(tested) > 1 else ""
        return dataclasses.replace(claim, here=claim.here + mark, holds=holds, p=None)

    return _each(groups, judge)


def _each(group: Any, change: Callable[[Claim], Any]) -> Any:
    """A group, nested as it is, with every claim of it changed."""
    if isinstance(group, Claim):
        return change(group)
    if isinstance(group, Mapping):
        return {name: _each(part, change) for name, part in group.items()}
    return type(group)(_each(part, change) for part in group)


def refuse_uncorrected(claims: Sequence[Claim]) -> None:
    """Let claims be said only once those of "above zero" have been through `corrected`.

    Raises:
        ValueError: one has not.
    """
    if missed := [claim.quantity for claim in claims if claim.p is not None]:
        raise ValueError(f"{missed[0]!r} is not corrected: `corrected` takes all at once, first")


def no_effect(
    claimed: Mapping[str, tuple[np.ndarray, np.ndarray]], share: float = SHARE
) -> list[Claim]:
    """Claims of "no effect": two one-sided tests each, corrected by Holm over all of them.

    Args:
        claimed: quantity -> values of what is claimed to be no effect, one per chain, and of the
            reference whose share is the margin, in the same order.
        share: of the reference's mean that still counts as no effect, fixed before the run. Beside
            the verdict stands the smallest share that would have held, singly, at 5 %.

    Returns:
        A claim for each, in the same order; those of arms that say nothing are not tested.
    """
    heard = {name: pair for name, pair in claimed.items() if np.isfinite(pair).all()}
    p_values = [statistics.relative_equivalence_p(*pair, share) for pair in heard.values()]
    tested = dict(zip(heard, zip(p_values, statistics.holm(p_values), strict=True), strict=True))
    count = f" (1 of {len(heard)}, Holm)" if len(heard) > 1 else ""

    def claim(name: str, values: np.ndarray, reference: np.ndarray) -> Claim:
        quantity, seeds = f"{name}, equivalent to none", len(values)
        if name not in tested:
            return Claim(quantity=quantity, here=SILENT, seeds=seeds)
        margin = share * reference.mean()
        least = smallest(statistics.smallest_share(values, reference))
        p, holds = tested[name]
        return Claim(
            quantity=quantity + count,
            here=f"{statistics.shown(values, 2)} within ±{margin:.2f}: p {p:.1g}, {least}",
            seeds=seeds,
            holds=holds if seeds >= ENOUGH else None,
        )

    return [claim(name, *pair) for name, pair in claimed.items()]


def smallest(share: float) -> str:
    """The smallest margin that a claim of "no effect" still holds at singly, in words."""
    return f"from {share:.1%} on" if np.isfinite(share) else "at no margin"


def judged(holds: bool | np.bool_, runs: int) -> bool | None:
    """A verdict, where there are runs enough for one."""
    return bool(holds) if runs >= ENOUGH else None


def say(claims: Sequence[Claim], *, holds: str, fails: str, open: str) -> str:
    """The sentence that claims allow: that they hold, that one fails, or what was asked.

    A smoke run has too few chains for a verdict, so its figures assert nothing.

    Raises:
        ValueError: a claim is not corrected.
    """
    refuse_uncorrected(claims)
    verdicts = [claim.holds for claim in claims]
    if any(verdict is False for verdict in verdicts):
        return fails
    return holds if verdicts and all(verdicts) else open


def follows_from(claims: Sequence[Claim], conclusion: str) -> str:
    """A conclusion where all claims hold; else that it does not follow."""
    return say(
        claims,
        holds=conclusion,
        fails="Nothing: a criterion that this rests on is missed.",
        open="Nothing yet: there are too few runs for a verdict.",
    )
