"""What a run found: claims beside what others reported, and figures of one claim each."""

import dataclasses
from collections.abc import Callable

import matplotlib.figure


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
    """

    quantity: str
    paper: str = ""
    replication: str = ""
    here: str = ""
    seeds: int = 0
    holds: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One claim as a picture and three short sentences.

    Attributes:
        name: of the files, without ending.
        title: the claim, in one sentence.
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
