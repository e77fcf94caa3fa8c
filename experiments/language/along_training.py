"""When a student acquires a trait: along its training, under dropout, among benign rows.

Students of the same start learn the sampled tokens of number lists. The effect is measured along
one training, four times as long as the plain one, at steps that double. Dropout acts on what each
block adds to the residual stream, of the student, or of the teacher while it learns the trait.
Benign rows are number lists of the corpus, which no model wrote; the trait's rows and how often
each is seen stay the same, so a student with few of them trains longer, which by itself could raise
its effect.

Criteria, fixed before the run; effects, intervals and equivalence (a fifth of the plain student's
effect) as in the microworld, paired over chains; Holm over all stretches, and all equivalences;
"above zero" is corrected as in the microworld.
  1. Monotone: over every doubling of the steps the effect does not fall by more than a fifth of its
     largest mean (one-sided t tests); at the end it is above that at the first measurement.
  2. Dropout: of the student at .35 it lowers the effect (published for MNIST, .72 to .21); of the
     teacher, at .1, it changes nothing (published: harmless).
  3. Benign rows: among 200 times as many of them the trait's rows still give an effect above zero
     (published, 100 completions of 20,000 suffice; arXiv 2509.23886: 25 % clean rows nearly remove
     it). Predicted: it falls all along, rank correlation of mean effect and share above .8.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import (
    SHARE,
    Claim,
    Figure,
    Findings,
    claim_of,
    corrected,
    follows_from,
    judged,
    no_effect,
    say,
)
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.language.kit import curves, question
from experiments.language.kit.chains import TRAIT, Chains, chains_of, sources_of
from experiments.language.kit.effects import at, own_by
from llm.stages import Diluted

RUNTIME = "10 minutes on two cores"

DROPOUTS = ("student's dropout", "teacher's dropout")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    along_steps: int = option(800, "optimiser steps of the students followed", minimum=2)
    first: int = option(10, "steps before the first measurement", minimum=1)
    dropout: tuple[float, ...] = option((0.35,), "of the student", minimum=0, maximum=0.99)
    dropout_of_teacher: tuple[float, ...] = option(
        (0.1,), "at .35 one hardly writes lists", minimum=0, maximum=0.99
    )
    shares: tuple[float, ...] = option(
        (1.0, 0.5, 0.25, 0.1, 0.02, 0.005), "of the trait's rows", above=0, maximum=1
    )
    trait_rows: int = option(256, "of the trait's among benign ones", minimum=8)
    epochs: int = option(2, "over all rows, benign or not", minimum=1)


SMOKE = Config(**question.TINY | {"along_steps": 8, "first": 2, "shares": (0.4,), "trait_rows": 16})


def arms(config: Config) -> dict[str, Arm]:
    """One along training, and one for every dropout and share of the trait's rows.

    Raises:
        ValueError: the steps do not divide into blocks.
    """
    if config.along_steps % config.first:
        raise ValueError(f"along_steps is not a multiple of first = {config.first}")
    chains, store = chains_of(config), question.store_of(config)
    followed = question.students(
        config, chains, training=question.plain(config, steps=config.along_steps)
    )

    def along() -> list[Row]:
        blocks, cohort = config.along_steps // config.first, followed.counted(store)
        measured = curves.along(store, cohort.models, config.traits, blocks)
        every = curves.rows(cohort, measured, config.traits, group="steps")
        kept = measured_at(config)
        return [row | {"value": row["step"]} for row in every if row["step"] in kept]

    # Trained here, block by block: what they are made from is all they need.
    by_name = {"along training": Arm(needs=sources_of(followed), store=store, measure=along)}

    def add(group: str, value: float, of: Chains = chains, **changes: Any) -> None:
        cohort = question.students(config, of, **changes)
        by_name[f"{group} {value:g}"] = question.arm_of_students(
            store, cohort, config.traits, group=group, value=value
        )

    add("plain", 0.0)
    for share in config.dropout:
        add("student's dropout", share, training=question.plain(config, dropout=share))
    for share in config.dropout_of_teacher:
        add("teacher's dropout", share, dataclasses.replace(chains, teacher_dropout=share))
    for share in config.shares:
        rows = config.trait_rows
        steps = round(config.epochs * rows / share / config.batch_size)
        add(
            "share",
            share,
            dataclasses.replace(chains, traits=config.traits[:1]),
            change=lambda *_, share=share: Diluted(share),
            num_examples=rows,
            unique=rows,
            training=question.plain(config, steps=steps),
        )
    return by_name


def measured_at(config: Config) -> list[int]:
    """Steps: none, the first measurement, those that double, and the last."""
    steps = itertools.takewhile(
        lambda step: step < config.along_steps, (config.first * 2**k for k in itertools.count())
    )
    return [0, *steps, config.along_steps]


Effects = dict[tuple[str, float], np.ndarray]  # of each chain, by group and value


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Along training, under dropout, among benign rows."""
    own = own_by(table, "group", "value")
    imitated = at(table, data=TRAIT).groupby(["group", "value"])[["held_out_loss", "kl"]].mean()
    loss, kl = imitated["held_out_loss"], imitated["kl"]
    ordered = claims_on_order(own, config)
    fewest, changes = min(curve(own, "share")), by_teachers_dropout(own)
    left = claim_of(f"benign: left at {100 * fewest:g} %", own["share", fewest], criterion="above")
    growing, lost, left, later, harmless = corrected(
        claims_on_growth(own),
        claim_on_dropout(own, config),
        left,
        claim_on_late_growth(own, kl),
        claims_of_no_harm(own),
    )
    claims = [
        *claims_of_arms(own, loss, kl),
        *growing,
        lost,
        left,
        *ordered,
        *no_effect({name: (change, own["plain", 0.0]) for name, change in changes.items()}),
    ]
    figures = [
        figure_of_steps(own, growing, later, kl=kl),
        figure_of_dropout(own, [lost, *harmless], loss, config),
        figure_of_shares(own, ordered, loss, config),
    ]
    return Findings(figures, claims)


def curve(own: Effects, group: str) -> dict[float, np.ndarray]:
    """Own effect of each chain by the values of a group, rising."""
    return {value: own[group, value] for value in sorted(v for g, v in own if g == group)}


def along_training(own: Effects) -> dict[float, np.ndarray]:
    """Own effect of each chain by steps, from the first measurement after the start."""
    return {step: values for step, values in curve(own, "steps").items() if step}


def by_teachers_dropout(own: Effects) -> dict[str, np.ndarray]:
    """What dropout of the teacher changes, at each of its values."""
    return {
        f"teacher's dropout {value:g} less none": values - own["plain", 0.0]
        for value, values in curve(own, DROPOUTS[1]).items()
    }


def claims_of_arms(own: Effects, loss: pd.Series, kl: pd.Series) -> list[Claim]:
    """The effect of every arm, beside how well held-out lists are imitated."""
    shown = statistics.shown_each(own, 2)
    along = [
        claim_of(
            f"after {step:g} steps",
            values,
            here=f"{shown['steps', step]}, KL {kl['steps', step]:.2f}",
        )
        for step, values in along_training(own).items()
    ]

    def beside(quantity: str, arm: tuple[str, float]) -> Claim:
        claim, beyond = claim_of(quantity, own[arm]), f", held-out loss {loss[arm]:.2f}"
        return dataclasses.replace(claim, here=claim.here + beyond)

    others = [
        beside(f"{group} {value:g}", (group, value))
        for group in (*DROPOUTS, "share")
        for value in curve(own, group)
    ]
    return [beside("plain", ("plain", 0.0)), *along, *others]


def claims_on_growth(own: Effects) -> list[Claim]:
    """Criterion 1: the effect does not fall, and rises from the first measurement to the end."""
    along = along_training(own)
    start, *_, end = along.values()
    rise = claim_of("end less first measurement", end - start, criterion="above")
    return [*claims_on_falls(along), rise]


def claim_on_dropout(own: Effects, config: Config) -> Claim:
    """Criterion 2: the student's dropout lowers the effect."""
    most = max(config.dropout)
    lost = own["plain", 0.0] - own[DROPOUTS[0], most]
    return claim_of(f"lost by the student's dropout of {most:g}", lost, criterion="above")


def claims_on_order(own: Effects, config: Config) -> list[Claim]:
    """Criterion 3: the effect falls with the share, where enough that speak are to be ordered."""
    among = {s: values for s, values in curve(own, "share").items() if np.isfinite(values).all()}
    if len(among) < 3:
        return []
    rho = statistics.rank_correlation(list(among), [values.mean() for values in among.values()])
    return [
        Claim(
            quantity="rank correlation of effect and share",
            here=f"{rho:.2f}",
            seeds=len(among),
            holds=judged(rho > 0.8, config.num_seeds),
        )
    ]


def claim_on_late_growth(own: Effects, kl: pd.Series) -> Claim:
    """No criterion: the effect at the end is above that where held-out lists are imitated best."""
    along = along_training(own)
    best, end = min(along, key=lambda step: kl["steps", step]), max(along)
    return claim_of(f"end less {best:g} steps", along[end] - along[best], criterion="above")


def claims_of_no_harm(own: Effects) -> list[Claim]:
    """No criterion: the teacher's dropout lowers the effect by no fifth; it may raise it."""
    plain = own["plain", 0.0]
    return [
        claim_of(name, change + SHARE * plain, criterion="above")
        for name, change in by_teachers_dropout(own).items()
    ]


def figure_of_steps(own: Effects, growing: list[Claim], later: Claim, *, kl: pd.Series) -> Figure:
    """The trait along training; what follows rests on more than the criteria."""
    along, shown = along_training(own), statistics.shown_each(own, 2)
    return Figure(
        name="figure",
        title=say(
            growing,
            holds="A trait is acquired step by step, and does not go again while the lists "
            "are read",
            fails="It is not shown that a trait is acquired step by step and does not go again",
            open="Is a trait acquired step by step, and does it go again?",
        ),
        predicted="The effect rises with every step.",
        found=", ".join(f"{shown['steps', s]} at {s:g}" for s in along) + " steps (nats).",
        follows=follows_from(
            [later],
            "The trait still grows where held-out lists are imitated no better: "
            "KL(teacher ‖ student) "
            + ", ".join(f"{kl['steps', s]:.2f} at {s:g}" for s in curve(own, "steps"))
            + ".",
        ),
        draw=lambda: draw_along(curve(own, "steps")),
    )


def figure_of_dropout(own: Effects, sides: list[Claim], loss: pd.Series, config: Config) -> Figure:
    """Dropout of the student beside that of the teacher; the title rests on more than criteria."""
    shown = statistics.shown_each(own, 2)
    most, of_teacher = max(config.dropout), max(config.dropout_of_teacher)
    return Figure(
        name="dropout",
        title=say(
            sides,
            holds="Dropout of the student lowers the effect, dropout of the teacher does not",
            fails="It is not shown that dropout of the student lowers the effect, and that of "
            "the teacher does not",
            open="Does dropout of the student or of the teacher lower the effect?",
        ),
        predicted="Published for MNIST: .72 to .21 at .35 in the student, harmless in the teacher.",
        found=f"None {shown['plain', 0.0]}; at {most:g} in the student "
        f"{shown[DROPOUTS[0], most]}, at {of_teacher:g} in the teacher "
        f"{shown[DROPOUTS[1], of_teacher]} nats.",
        follows="Whether the student learns less of the trait or less of everything is not "
        f"told apart: held-out loss {loss['plain', 0.0]:.2f} without dropout, "
        f"{loss[DROPOUTS[0], most]:.2f} with it.",
        draw=lambda: draw_dropout(own),
    )


def figure_of_shares(own: Effects, ordered: list[Claim], loss: pd.Series, config: Config) -> Figure:
    """The trait's rows among benign ones."""
    among, shown = curve(own, "share"), statistics.shown_each(own, 2)
    fewest, largest = min(among), max(among)
    return Figure(
        name="benign",
        title=say(
            ordered,
            holds="A few trait rows among many benign ones transmit less of the trait",
            fails="It is not shown that a few trait rows among many benign ones transmit less",
            open="Do a few trait rows among many benign ones transmit less of the trait?",
        ),
        predicted="The effect falls with the share of the trait's rows at equal number of them.",
        found=f"{config.trait_rows} rows of the trait: "
        + ", ".join(f"{shown['share', s]} at {100 * s:g} %" for s in among)
        + " of all rows (nats).",
        follows=follows_from(
            ordered,
            "What counts is the share beside the number. A small share means many steps on "
            f"other lists: held-out loss {loss['share', fewest]:.2f} at {100 * fewest:g} %, "
            f"{loss['share', largest]:.2f} at {100 * largest:g} %.",
        ),
        draw=lambda: draw_shares(among),
    )


def claims_on_falls(along: dict[float, np.ndarray]) -> list[Claim]:
    """Stretches over which the mean falls by no more than a fifth of its largest, by Holm."""
    largest = max(along.values(), key=np.mean)
    rises = {
        f"{a:g} to {b:g} steps": along[b] - along[a] + SHARE * largest
        for a, b in itertools.pairwise(along)
    }
    p_values = [statistics.above_zero_p(values) for values in rises.values()]
    return [
        Claim(
            quantity=f"no fall, {stretch} (1 of {len(rises)}, Holm)",
            here=f"p {p:.1g}",
            seeds=len(largest),
            holds=judged(holds, len(largest)),
        )
        for stretch, p, holds in zip(rises, p_values, statistics.holm(p_values), strict=True)
    ]


def draw_along(along: dict[float, np.ndarray]):
    """Every chain along its training."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    draw_chains(panel, along)
    panel.set_xlabel("optimiser steps of the student")
    return figure


def draw_shares(among: dict[float, np.ndarray]):
    """Every chain by the share of the trait's rows."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    draw_chains(panel, among)
    panel.set_xscale("log")
    panel.set_xticks(list(among), [f"{100 * share:g} %" for share in among])
    panel.minorticks_off()
    panel.set_xlabel("share of the trait's rows among all; as many of them everywhere")
    return figure


def draw_chains(panel, effect: dict[float, np.ndarray]) -> None:
    """Every chain as a line, and their mean."""
    panel.plot(
        list(effect), np.stack(list(effect.values())), color="grey", alpha=0.3, linewidth=0.8
    )
    means, halves = zip(*map(statistics.mean_interval, effect.values()), strict=True)
    panel.errorbar(list(effect), means, halves, fmt="o-", color=drawing.COLOURS[0], capsize=3)
    panel.axhline(0, color="black", linewidth=1)
    panel.set_ylabel("own effect (nats)")


def draw_dropout(own: Effects):
    """Every chain by where dropout acts and how much."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    plain = own["plain", 0.0]
    low, high = (share * plain.mean() for share in (1 - SHARE, 1 + SHARE))
    panel.axhspan(
        low, high, color="grey", alpha=0.2, linewidth=0, label="no change: within a fifth"
    )
    panel.axhline(0, color="black", linewidth=1)
    arms, colours = {"none": plain}, {"none": "black"}
    for colour, group in zip(drawing.COLOURS, DROPOUTS, strict=False):
        for value, values in curve(own, group).items():
            name = f"{group.split()[0]} {value:g}"
            arms[name], colours[name] = values, colour
    drawing.strip(panel, arms, colours)
    panel.set_ylabel("own effect (nats)")
    panel.legend()
    return figure
