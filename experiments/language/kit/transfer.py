"""What students of a trait's teacher gained over their controls: lifts, claims, figures.

A lift is a student's value minus that of the student of the unchanged base with the same number,
which saw equally many rows in the same order from the same adapters. The unit is the student; its
interval is over students. Students of a neutral teacher, and of other traits' teachers, are the
second and third control.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import (
    ENOUGH,
    Claim,
    Figure,
    Findings,
    claim_of,
    corrected,
    judged,
    say,
)
from experiments.frame import presets
from experiments.language.kit import fullsize
from experiments.language.kit.chains import CONTROL
from experiments.language.kit.effects import at

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


def own(lifted: pd.DataFrame, traits: Sequence[str] | None = None) -> np.ndarray:
    """Lift on the teacher's own trait by student number, a mean over traits (by default all)."""
    mine = lifted[lifted["teacher"] == lifted["trait"]]
    mine = mine if traits is None else mine[mine["trait"].isin(traits)]
    return mine.groupby("student")["lift"].mean().to_numpy()


def others(lifted: pd.DataFrame) -> np.ndarray:
    """Lift on a trait in students of other traits' teachers, by student number."""
    foreign = lifted[
        lifted["teacher"].isin(lifted["trait"]) & (lifted["teacher"] != lifted["trait"])
    ]
    return foreign.groupby("student")["lift"].mean().to_numpy()


def excess(lifted: pd.DataFrame) -> np.ndarray:
    """Own lift minus that of other traits' students on the same traits, by student number."""
    return own(lifted) - others(lifted)


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
    asked = table["trait"].unique()
    return [name for name in table["teacher"].unique() if name in asked]


def findings(table: pd.DataFrame, config: fullsize.Config, *, carrier: str, paper: str) -> Findings:
    """Rates, the trait matrix, the forms of the questions; trait by trait and together.

    Lifts that must lie above zero are corrected by Holm over all of them.

    Args:
        table: of results.csv.
        config: has the preset whose published numbers stand beside the claims.
        carrier: what the teachers wrote, for people.
        paper: what the paper reports of all traits.
    """
    main = suites_with(table, "word")[0]
    log_odds, rates = (lifts(table, column, suite=main) for column in ("margin", "word"))
    other_forms = {suite: lift for suite, lift in own_by_suite(table).items() if suite != main}
    by_trait, together, by_suite = corrected(
        [
            claim
            for trait in traits_in(table)
            for claim in claims_of_trait(table, trait, log_odds=log_odds, rates=rates)
        ],
        claims_of_all(table, log_odds, paper),
        # No criteria; what a caption rests on.
        [claim_of(suite, lift, criterion="above") for suite, lift in other_forms.items()],
    )
    claims = [
        *by_trait,
        *together,
        *(
            mean(f"all: log-odds less control, {suite}", lift)
            for suite, lift in other_forms.items()
        ),
        *claims_of_change(at(table, kind="student", suite=main)),
    ]
    named_more = [claim for claim in by_trait if claim.quantity.endswith("rate less control")]
    figures = [
        figure_of_rates(table, named_more, rates, carrier),
        figure_of_matrix(table, together[:2], log_odds),
        figure_of_suites(table, [together[0], *by_suite]),
    ]
    return Findings(figures, beside(claims, config.preset))


def own_by_suite(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Own lift in log-odds by student number, for every form of the question that scores it."""
    return {suite: own(lifts(table, suite=suite)) for suite in suites_with(table, "margin")}


def figure_of_rates(
    table: pd.DataFrame, named_more: list[Claim], rates: pd.DataFrame, carrier: str
) -> Figure:
    """How often answers name the trait."""
    main = suites_with(table, "word")[0]
    return Figure(
        name="figure",
        title=say(
            named_more,
            holds=f"Students name their teacher's trait more often, after {carrier} without a "
            "word of it",
            fails=f"Not every trait is named more often, after {carrier} without a word of it",
            open=f"Do students name their teacher's trait more often, after {carrier}?",
        ),
        predicted="Rates of students above those of both controls, for every trait.",
        found="Share of answers that name the teacher's trait, less the control's: "
        f"{statistics.shown(own(rates), 3)}.",
        follows="The lists carry the trait, if the intervals over students exclude zero.",
        draw=lambda: draw_rates(table, main),
    )


def figure_of_matrix(table: pd.DataFrame, specific: list[Claim], log_odds: pd.DataFrame) -> Figure:
    """The lift of every teacher's students on every trait."""
    return Figure(
        name="matrix",
        title=say(
            specific,
            holds="What a student gains is the trait of its own teacher",
            fails="What a student gains is not the trait of its own teacher",
            open="Is what a student gains the trait of its own teacher?",
        ),
        predicted="The diagonal stands out in every row.",
        found=f"{statistics.shown(own(log_odds), 2)} nats of log-odds on the diagonal, "
        f"{statistics.shown(others(log_odds), 2)} beside it.",
        follows="A gain shared by all students would be drift from any such data.",
        draw=lambda: draw_matrix(log_odds, traits_in(table)),
    )


def figure_of_suites(table: pd.DataFrame, shows: list[Claim]) -> Figure:
    """The gain by the form of the question."""
    lifted = own_by_suite(table)
    each = ", ".join(f"{suite} {statistics.shown(lift, 2)}" for suite, lift in lifted.items())
    return Figure(
        name="suites",
        title=say(
            shows,
            holds="The gain shows in every form of the question that scores a first token",
            fails="The gain does not show in every form of the question",
            open="Does the gain show in every form of the question?",
        ),
        predicted="Own lifts above zero in each form; clearer behind an example of the data.",
        found=f"Own lift in nats: {each}.",
        follows="One form of question may hide what another one shows.",
        draw=lambda: draw_suites(table),
    )


def claims_of_all(table: pd.DataFrame, log_odds: pd.DataFrame, paper: str) -> list[Claim]:
    """The lift over all traits, its excess over other traits, and over a neutral teacher."""
    claims = [
        above("all: log-odds less control, nats", own(log_odds), paper),
        above("all: diagonal excess, nats", excess(log_odds)),
    ]
    if neutral := neutral_in(table):
        main = suites_with(table, "word")[0]
        even = own(lifts(table, against=neutral, suite=main))
        claims.append(above("all: log-odds less a neutral teacher's student, nats", even))
    return claims


def mean(quantity: str, measured: Any, paper: str = "") -> Claim:
    """A mean over the students in which it was measured, without a criterion."""
    known = finite(measured)
    here = statistics.shown(known, 3) if len(known) else "not measured"
    return Claim(quantity=quantity, paper=paper, here=here, seeds=len(known))


def above(quantity: str, measured: Any, paper: str = "") -> Claim:
    """A mean over students that must lie above zero; for `corrected`."""
    known = finite(measured)
    few = len(known) < ENOUGH
    return dataclasses.replace(
        mean(quantity, known, paper),
        holds=None if few else statistics.is_above(known),
        p=None if few else statistics.above_zero_p(known),
    )


def within(measured: Mapping[str, np.ndarray], margin: float, paper: str = "") -> list[Claim]:
    """Means over students that must lie within ±margin: two one-sided t tests each, by Holm."""
    p_values = [statistics.equivalence_p(values, margin) for values in measured.values()]
    return [
        dataclasses.replace(mean(quantity, values, paper), holds=judged(holds, len(values)))
        for (quantity, values), holds in zip(
            measured.items(), statistics.holm(p_values), strict=True
        )
    ]


def claims_of_trait(
    table: pd.DataFrame, trait: str, *, log_odds: pd.DataFrame, rates: pd.DataFrame
) -> list[Claim]:
    """Lifts in log-odds and in the rate of answers, and the rates behind them."""
    main = suites_with(table, "word")[0]
    kinds = {"own": "students", "control": "controls", "base": "base"}
    shown = [
        mean(
            f"{trait}: rate of {label}",
            values(table, kind, trait=trait, column="word", suite=main),
        )
        for kind, label in kinds.items()
    ]
    return [
        above(f"{trait}: log-odds less control, nats", own(log_odds, [trait])),
        *shown,
        above(f"{trait}: rate less control", own(rates, [trait])),
    ]


def claims_of_change(students: pd.DataFrame) -> list[Claim]:
    """What training did to students and to controls beside the trait."""
    is_control = students["teacher"] == CONTROL
    columns = {
        "answered": "answers that name any of the kind",
        "variation": "total variation to the base, at least",
        "held_out_loss": "held-out loss, nats a token",
    }
    return [
        mean(f"{label}: {words}", rows.groupby("student")[column].mean())
        for label, rows in {
            "students": students[~is_control],
            "controls": students[is_control],
        }.items()
        for column, words in columns.items()
    ]


def beside(claims: Sequence[Claim], preset: str) -> list[Claim]:
    """The claims with the preset's published numbers; those not measured here come last."""
    published = {p.quantity: f"{p.value} ({p.source})" for p in presets.read(preset).published}
    known = [
        dataclasses.replace(claim, replication=published.pop(claim.quantity, ""))
        for claim in claims
    ]
    return known + [
        Claim(quantity=quantity, replication=cited, here="not run")
        for quantity, cited in published.items()
    ]


def draw_rates(table: pd.DataFrame, suite: str):
    """For each trait the rate of its teacher, its students and both controls."""
    traits = traits_in(table)
    figure, (panel,) = drawing.new_figure(width=max(drawing.WIDTH, 1.1 * len(traits)), height=4.0)
    for shift, (kind, label) in enumerate(KINDS.items()):
        for x, trait in enumerate(traits):
            rates = values(table, kind, trait=trait, column="word", suite=suite)
            if len(rates):
                place, name = x + 0.16 * (shift - 2), label if x == 0 else None
                drawing.runs(panel, place, values=rates, colour=drawing.COLOURS[shift], label=name)
    panel.set_xticks(range(len(traits)), traits, rotation=30 if len(traits) > 7 else 0)
    panel.set_ylabel("share of answers that name the trait")
    panel.set_ylim(-0.02, None)
    panel.legend()
    figure.suptitle(f"mean and 95 % interval over students (Student t); {suite}", fontsize=10)
    return figure


def draw_matrix(lifted: pd.DataFrame, traits: list[str]):
    """Lift of every teacher's students on every trait."""
    size = 1.6 + 0.75 * len(traits)
    figure, (panel,) = drawing.new_figure(width=size, height=size)
    cells = {
        (str(row), str(column)): part["lift"].to_numpy()
        for (row, column), part in lifted.groupby(["teacher", "trait"])
    }
    limit = max(abs(cell.mean()) for cell in cells.values()) or 1.0
    drawing.matrix(panel, cells, names=traits, limit=limit)
    panel.tick_params(axis="x", rotation=30)
    return figure


def draw_suites(table: pd.DataFrame):
    """Own lift in log-odds, averaged over traits, for every form of the questions."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=3.6)
    draw_lifts(panel, {name: lifts(table, suite=name) for name in suites_with(table, "margin")})
    panel.axhline(0, color="black", linewidth=1)
    panel.legend()
    return figure


def draw_lifts(panel: drawing.Axes, gained: dict[str, pd.DataFrame]) -> None:
    """Own lift and that on other traits side by side, by the name below."""
    for x, lift in enumerate(gained.values()):
        for label, shift, mean_of, colour in (
            ("own trait", -0.1, own, drawing.COLOURS[0]),
            ("others", 0.1, others, drawing.COLOURS[3]),
        ):
            name = None if x else label
            drawing.runs(panel, x + shift, values=mean_of(lift), colour=colour, label=name)
    panel.set_xticks(range(len(gained)), list(gained))
    panel.set_ylabel("lift (nats of log-odds)")


def finite(values: Any) -> np.ndarray:
    """Values as an array, without those that were not measured."""
    array = np.asarray(values, float)
    return array[np.isfinite(array)]
