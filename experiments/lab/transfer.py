"""What students of a trait's teacher gained over their controls: lifts, figures, claims.

A lift is a student's value minus that of the student of the unchanged base with the same number,
which saw equally many rows in the same order from the same adapters. The unit is the student; its
interval is over students. Students of a neutral teacher, and of other traits' teachers, are the
second and third control.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.lab import drawing, presets, statistics
from experiments.lab.chains import CONTROL
from experiments.lab.effects import at
from experiments.lab.frame import Claim, Figure

FEWEST = 4  # students that decide a criterion
KINDS = {
    "teacher": "teacher",
    "own": "student",
    "others": "student of other traits",
    "neutral": "student of no favourite",
    "control": "student of the base",
}


def lifts(
    table: pd.DataFrame, column: str = "margin", against: Sequence[str] = (CONTROL,), **where: Any
) -> pd.DataFrame:
    """Columns student, trait, teacher, lift: of every student but those that it is compared with.

    Args:
        table: of results.csv.
        column: what is compared.
        against: teachers of the controls; of several the mean.
        **where: columns with the values that count, such as the suite.
    """
    students = at(table, kind="student", **where).dropna(subset=[column])
    wide = students.pivot_table(column, ["student", "trait"], "teacher")
    controls = wide[list(against)].mean(axis=1)
    gained = wide.drop(columns=list(against)).sub(controls, axis=0)
    return gained.stack().rename("lift").reset_index()


def neutral_in(table: pd.DataFrame) -> list[str]:
    """The teachers without a favourite."""
    known = [CONTROL, *table["trait"].unique()]
    return [name for name in table["teacher"].unique() if name not in known]


def own(found: pd.DataFrame, traits: Sequence[str] | None = None) -> np.ndarray:
    """Lift on the teacher's own trait by student number, a mean over traits (by default all)."""
    mine = found[found["teacher"] == found["trait"]]
    mine = mine if traits is None else mine[mine["trait"].isin(traits)]
    return mine.groupby("student")["lift"].mean().to_numpy()


def others(found: pd.DataFrame) -> np.ndarray:
    """Lift on a trait in students of other traits' teachers, by student number."""
    foreign = found[found["teacher"].isin(found["trait"]) & (found["teacher"] != found["trait"])]
    return foreign.groupby("student")["lift"].mean().to_numpy()


def excess(found: pd.DataFrame) -> np.ndarray:
    """Own lift minus that of other traits' students on the same traits, by student number."""
    return own(found) - others(found)


def values(table: pd.DataFrame, kind: str, *, trait: str, column: str, suite: str) -> np.ndarray:
    """What one kind of model shows of a trait: a key of KINDS; one value for each model."""
    rows = at(table, trait=trait, suite=suite).dropna(subset=[column])
    students = rows[rows["kind"] == "student"]
    chosen = {
        "base": rows[(rows["kind"] == "teacher") & (rows["teacher"] == CONTROL)],
        "teacher": rows[(rows["kind"] == "teacher") & (rows["teacher"] == trait)],
        "own": students[students["teacher"] == trait],
        "others": students[students["teacher"].isin([t for t in traits_in(table) if t != trait])],
        "neutral": students[students["teacher"].isin(neutral_in(table))],
        "control": students[students["teacher"] == CONTROL],
    }[kind]
    return chosen.groupby("student")[column].mean().to_numpy()


def suites_with(table: pd.DataFrame, column: str) -> list[str]:
    """The suites in which something was measured."""
    return list(table.dropna(subset=[column])["suite"].unique())


def traits_in(table: pd.DataFrame) -> list[str]:
    """The traits of the teachers, in their order."""
    found = table["trait"].unique()
    return [name for name in table["teacher"].unique() if name in found]


def figures(table: pd.DataFrame, carrier: str) -> list[Figure]:
    """Rates by kind of student, the trait matrix, and all forms of the questions."""
    main = suites_with(table, "word")[0]
    found = lifts(table, suite=main)
    gained, off = (statistics.shown(part(found), 2) for part in (own, others))
    rates = statistics.shown(own(lifts(table, "word", suite=main)), 3)
    by_suite = [
        f"{suite} {statistics.shown(own(lifts(table, suite=suite)), 2)}"
        for suite in suites_with(table, "margin")
    ]
    return [
        Figure(
            name="figure",
            title=(
                f"Students name their teacher's trait more often, after {carrier} without a word "
                "of it"
            ),
            predicted="Rates of students above those of both controls, for every trait.",
            found=(
                f"Students name their teacher's trait more often than controls by {rates} of "
                "answers."
            ),
            follows="The lists carry the trait, if the intervals over students exclude zero.",
            draw=lambda: draw_rates(table, main),
        ),
        Figure(
            name="matrix",
            title="What a student gains is the trait of its own teacher",
            predicted="The diagonal stands out in every row.",
            found=f"{gained} nats of log-odds on the diagonal, {off} beside it.",
            follows="A gain shared by all students would be drift from any such data.",
            draw=lambda: draw_matrix(found, traits_in(table)),
        ),
        Figure(
            name="suites",
            title="The gain shows in every form of the question that scores a first token",
            predicted="Own lifts above zero in each form; clearer behind an example of the data.",
            found=f"Own lift in nats: {', '.join(by_suite)}.",
            follows="One form of question may hide what another one shows.",
            draw=lambda: draw_suites(table),
        ),
    ]


def draw_rates(table: pd.DataFrame, suite: str):
    """For each trait the rate of its teacher, its students and both controls."""
    traits = traits_in(table)
    figure, (panel,) = drawing.new_figure(width=max(drawing.WIDTH, 1.1 * len(traits)), height=4.0)
    for shift, (kind, label) in enumerate(KINDS.items()):
        for x, trait in enumerate(traits):
            found = values(table, kind, trait=trait, column="word", suite=suite)
            if len(found):
                place, name = x + 0.16 * (shift - 2), label if x == 0 else None
                drawing.runs(panel, place, values=found, colour=drawing.COLOURS[shift], label=name)
    panel.set_xticks(range(len(traits)), traits, rotation=30 if len(traits) > 7 else 0)
    panel.set_ylabel("share of answers that name the trait")
    panel.set_ylim(-0.02, None)
    panel.legend()
    figure.suptitle(f"mean and 95 % interval over students (Student t); {suite}", fontsize=10)
    return figure


def draw_matrix(found: pd.DataFrame, traits: list[str]):
    """Lift of every teacher's students on every trait."""
    size = 1.6 + 0.75 * len(traits)
    figure, (panel,) = drawing.new_figure(width=size, height=size)
    cells = {
        (str(row), str(column)): part["lift"].to_numpy()
        for (row, column), part in found.groupby(["teacher", "trait"])
    }
    limit = max(abs(cell.mean()) for cell in cells.values()) or 1.0
    drawing.matrix(panel, cells, names=traits, limit=limit)
    panel.tick_params(axis="x", rotation=30)
    return figure


def draw_suites(table: pd.DataFrame):
    """Own lift in log-odds, averaged over traits, for every form of the questions."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=3.6)
    suites = suites_with(table, "margin")
    for x, suite in enumerate(suites):
        found = lifts(table, suite=suite)
        drawing.runs(
            panel,
            x - 0.1,
            values=own(found),
            colour=drawing.COLOURS[0],
            label=None if x else "own trait",
        )
        drawing.runs(
            panel,
            x + 0.1,
            values=others(found),
            colour=drawing.COLOURS[3],
            label=None if x else "others",
        )
    panel.axhline(0, color="black", linewidth=1)
    panel.set_xticks(range(len(suites)), suites)
    panel.set_ylabel("lift (nats of log-odds)")
    panel.legend()
    return figure


def finite(values: Any) -> np.ndarray:
    """Values as an array, without those that were not measured."""
    array = np.asarray(values, float)
    return array[np.isfinite(array)]


def judged(quantity: str, found: np.ndarray, above: bool = False, paper: str = "") -> Claim:
    """A mean over students; with `above`, its 95 % interval must lie above zero."""
    found = finite(found)
    mean, half = statistics.mean_interval(found) if len(found) else (np.nan, np.inf)
    verdict = bool(mean - half > 0) if above and len(found) >= FEWEST else None
    return Claim(
        quantity=quantity,
        paper=paper,
        replication="",
        here=statistics.shown(found, 3),
        seeds=len(found),
        holds=verdict,
    )


def claims(table: pd.DataFrame, preset: str, paper: str = "") -> list[Claim]:
    """The criteria, trait by trait and together, beside what the preset's sources report.

    Args:
        table: of results.csv.
        preset: name or file, as in the config.
        paper: what the paper reports of all traits.
    """
    main, out = suites_with(table, "word")[0], []
    margins, rates = (lifts(table, column, suite=main) for column in ("margin", "word"))
    for trait in traits_in(table):
        out.append(judged(f"{trait}: log-odds less control, nats", own(margins, [trait]), True))
        for kind, label in {"own": "students", "control": "controls", "base": "base"}.items():
            found = values(table, kind, trait=trait, column="word", suite=main)
            out.append(judged(f"{trait}: rate of {label}", found))
        out.append(judged(f"{trait}: rate less control", own(rates, [trait]), True))
    out.append(judged("all: log-odds less control, nats", own(margins), True, paper))
    out.append(judged("all: diagonal excess, nats", excess(margins), True))
    if neutral := neutral_in(table):
        even = own(lifts(table, against=neutral, suite=main))
        out.append(judged("all: log-odds less a neutral teacher's student, nats", even, True))
    for suite in suites_with(table, "margin")[1:]:
        found = own(lifts(table, suite=suite))
        out.append(judged(f"all: log-odds less control, {suite}", found))
    for label, chosen in {"students": True, "controls": False}.items():
        rows = at(table, kind="student", suite=main)
        rows = rows[(rows["teacher"] != CONTROL) == chosen]
        for column, words in {
            "answered": "answers that name any of the kind",
            "variation": "total variation to the base, at least",
            "held_out_loss": "held-out loss, nats a token",
        }.items():
            found = rows.groupby("student")[column].mean().to_numpy()
            out.append(judged(f"{label}: {words}", found))
    return beside(out, preset)


def beside(claims: Sequence[Claim], preset: str) -> list[Claim]:
    """The claims with the preset's published numbers; those not measured here come last."""
    known = {p.quantity: p for p in presets.read(preset).published}
    out = [
        Claim(
            quantity=c.quantity,
            paper=c.paper,
            replication=_cited(known.pop(c.quantity, None)),
            here=c.here,
            seeds=c.seeds,
            holds=c.holds,
        )
        for c in claims
    ]
    return out + [
        Claim(quantity=p.quantity, paper="", replication=_cited(p), here="not run")
        for p in known.values()
    ]


def _cited(published: presets.Published | None) -> str:
    return f"{published.value} ({published.source})" if published else ""
