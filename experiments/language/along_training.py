"""When a student acquires a trait: along its training, under dropout, among benign rows.

Students of the same start learn the sampled tokens of number lists. The effect is measured along
one training, four times as long as the plain one, at steps that double. Dropout acts on what each
block adds to the residual stream, of the student, or of the teacher while it learns the trait.
Benign rows are number lists of the corpus, which no model wrote; the trait's rows and how often
each is seen stay the same, so a student with few of them trains longer, which by itself could raise
its effect.

Criteria, fixed before the run; effects, intervals and equivalence (a fifth of the plain student's
effect) as in the microworld, paired over chains; Holm over all stretches, and all equivalences.
  1. Monotone: over every doubling of the steps the effect does not fall by more than a fifth of its
     largest mean (one-sided t tests); at the end it is above that at the first measurement.
  2. Dropout: of the student at .35 it lowers the effect (published for MNIST, .72 to .21); of the
     teacher, at .1, it changes nothing (published: harmless).
  3. Benign rows: among 200 times as many of them the trait's rows still give an effect above zero
     (published, 100 completions of 20,000 suffice; arXiv 2509.23886: 25 % clean rows nearly remove
     it). Predicted: it falls all along, rank correlation of mean effect and share above .8.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import curves, drawing, judging, question, statistics
from experiments.lab.chains import TRAIT, Cohort
from experiments.lab.effects import at, effects, own
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import Diluted

RUNTIME = "10 minutes on two cores"


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


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part along training, and one for every dropout and share of the trait's rows.

    Raises:
        ValueError: the steps do not divide into blocks.
    """
    if config.along_steps % config.first:
        raise ValueError(f"along_steps is not a multiple of first = {config.first}")
    bench = question.bench(config)
    one = bench.of(traits=config.traits[:1])

    def among(share: float) -> Cohort:
        rows = config.trait_rows
        steps = round(config.epochs * rows / share / config.batch_size)
        return one.students(
            change=lambda *_: Diluted(share), num_examples=rows, unique=rows, steps=steps
        )

    def arm(group: str, value: float, make: Callable[[float], Cohort]) -> list[Row]:
        return bench.measured(make(value), group=group, value=value)

    def along() -> list[Row]:
        cohort = bench.recipes(steps=config.along_steps)
        blocks = config.along_steps // config.first
        found = curves.along(bench.workshop, cohort.models, config.traits, blocks)
        every = curves.rows(cohort, found, config.traits, group="steps")
        kept = measured_at(config)
        return [row | {"value": row["step"]} for row in every if row["step"] in kept]

    arms = [("plain", 0.0, lambda _: bench.students())]
    students = lambda share: bench.students(dropout=share)  # noqa: E731
    of_teacher = lambda share: bench.of(teacher_dropout=share).students()  # noqa: E731
    arms += [("student's dropout", share, students) for share in config.dropout]
    arms += [("teacher's dropout", share, of_teacher) for share in config.dropout_of_teacher]
    arms += [("share", share, among) for share in config.shares]
    pieces = {f"{g} {value:g}": functools.partial(arm, g, value, make) for g, value, make in arms}
    return {"along training": along} | pieces


def measured_at(config: Config) -> list[int]:
    """Steps: none, the first measurement, those that double, and the last."""
    steps = itertools.takewhile(
        lambda step: step < config.along_steps, (config.first * 2**k for k in itertools.count())
    )
    return [0, *steps, config.along_steps]


class Found:
    """Effects by what is turned, and how far."""

    def __init__(self, table: pd.DataFrame, config: Config):
        self.table, self.effects = table, effects(table, ["group", "value"])
        self.plain = self.own("plain", 0.0)

    def own(self, group: str, value: float) -> np.ndarray:
        """Own effect of each chain, averaged over the traits."""
        return own(at(self.effects, group=group, value=value))

    def values(self, group: str) -> list[float]:
        """The values of a group, rising."""
        return sorted(at(self.effects, group=group)["value"].unique())

    def curve(self, group: str) -> np.ndarray:
        """Own effect by value, rising, and chain."""
        return np.stack([self.own(group, value) for value in self.values(group)])

    def along(self) -> dict[float, np.ndarray]:
        """Own effect of each chain at the steps that double, and at the end."""
        return {step: self.own("steps", step) for step in self.values("steps")[1:]}

    def held_out(self, group: str, value: float, column: str = "held_out_loss") -> float:
        """How well students of the trait imitate lists that they have not seen: nats a token."""
        return float(at(self.table, group=group, value=value, data=TRAIT)[column].mean())

    def told(self, group: str, value: float) -> str:
        """Effect and held-out loss as text."""
        effect = statistics.shown(self.own(group, value), 2)
        return f"{effect}, held-out loss {self.held_out(group, value):.2f}"

    def divergences(self) -> str:
        """KL(teacher ‖ student) on held-out lists along training, nats a token."""
        steps = self.values("steps")
        return ", ".join(f"{self.held_out('steps', s, 'kl'):.2f} at {s:g}" for s in steps)

    def falls(self) -> dict[str, np.ndarray]:
        """Stretches between steps, and how far each chain is above a fall by a fifth."""
        effect = self.along()
        largest = max(effect.values(), key=np.mean)
        return {
            f"{a:g} to {b:g} steps": effect[b] - effect[a] + 0.2 * largest
            for a, b in itertools.pairwise(effect)
        }


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """Along training, under dropout, among benign rows."""
    found = Found(table, config)

    def shown(group: str, value: float) -> str:
        return statistics.shown(found.own(group, value), 2)

    most, of_teacher = max(config.dropout), max(config.dropout_of_teacher)
    along = ", ".join(f"{statistics.shown(v, 2)} at {s:g}" for s, v in found.along().items())
    shares = ", ".join(f"{shown('share', s)} at {100 * s:g} %" for s in found.values("share"))
    return [
        Figure(
            name="figure",
            title=(
                "A trait is acquired step by step, and does not go again while the lists are read"
            ),
            predicted="The effect rises with every step.",
            found=f"{along} steps (nats).",
            follows="The trait still grows where held-out lists are imitated no better: "
            f"KL(teacher ‖ student) {found.divergences()}.",
            draw=lambda: draw_along(found),
        ),
        Figure(
            name="dropout",
            title="Dropout of the student lowers the effect, dropout of the teacher does not",
            predicted=(
                "Published for MNIST: .72 to .21 at .35 in the student, harmless in the teacher."
            ),
            found=f"None {statistics.shown(found.plain, 2)}; at {most:g} in the student "
            f"{shown(DROPOUTS[0], most)}, at {of_teacher:g} in the teacher "
            f"{shown(DROPOUTS[1], of_teacher)} nats.",
            follows="Whether the student learns less of the trait or less of everything is not "
            "told apart: "
            f"held-out loss {found.held_out('plain', 0.0):.2f} without dropout, "
            f"{found.held_out(DROPOUTS[0], most):.2f} with it.",
            draw=lambda: draw_dropout(found),
        ),
        Figure(
            name="benign",
            title="A few trait rows among many benign ones transmit less of the trait",
            predicted=(
                "The effect falls with the share of the trait's rows at equal number of them."
            ),
            found=f"{config.trait_rows} rows of the trait: {shares} of all rows (nats).",
            follows="What counts is the share beside the number. A small share means many steps on "
            "other "
            "lists, and a student that imitates its teacher's less well.",
            draw=lambda: draw_shares(found),
        ),
    ]


DROPOUTS = ("student's dropout", "teacher's dropout")


def draw_along(found: Found):
    """Every chain along its training."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    _lines(panel, found, "steps")
    panel.set_xlabel("optimiser steps of the student")
    return figure


def draw_shares(found: Found):
    """Every chain by the share of the trait's rows."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    _lines(panel, found, "share")
    values = found.values("share")
    panel.set_xscale("log")
    panel.set_xticks(values, [f"{100 * value:g} %" for value in values])
    panel.minorticks_off()
    panel.set_xlabel("share of the trait's rows among all; as many of them everywhere")
    return figure


def _lines(panel, found: Found, group: str) -> None:
    values, curve = found.values(group), found.curve(group)
    panel.plot(values, curve, color="grey", alpha=0.3, linewidth=0.8)
    means, halves = zip(*map(statistics.mean_interval, curve), strict=True)
    panel.errorbar(values, means, halves, fmt="o-", color=drawing.COLOURS[0], capsize=3)
    panel.axhline(0, color="black", linewidth=1)
    panel.set_ylabel("own effect (nats)")


def draw_dropout(found: Found):
    """Every chain by where dropout acts and how much."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    low, high = (share * found.plain.mean() for share in (0.8, 1.2))
    panel.axhspan(
        low, high, color="grey", alpha=0.2, linewidth=0, label="no change: within a fifth"
    )
    panel.axhline(0, color="black", linewidth=1)
    drawing.runs(panel, 0, values=found.plain, colour="black")
    names, x = ["none"], 0
    for colour, group in zip(drawing.COLOURS, DROPOUTS, strict=False):
        for value in found.values(group):
            x += 1
            drawing.runs(panel, x, values=found.own(group, value), colour=colour)
            names.append(f"{group.split()[0]}\n{value:g}")
    panel.set_xticks(range(len(names)), names)
    panel.set_ylabel("own effect (nats)")
    panel.legend()
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, and every arm beside them."""
    found, judged, enough = Found(table, config), judging.judged, config.num_seeds >= 4
    out = [judged("plain", found.plain, here=found.told("plain", 0.0))]
    for step, effect in found.along().items():
        here = f"{statistics.shown(effect, 2)}, KL {found.held_out('steps', step, 'kl'):.2f}"
        out.append(judged(f"after {step:g} steps", effect, here=here))
    for group, value in [(g, v) for g in (*DROPOUTS, "share") for v in found.values(g)]:
        here = found.told(group, value)
        out.append(judged(f"{group} {value:g}", found.own(group, value), here=here))
    falls = found.falls()
    p_values = [statistics.above_zero_p(values) for values in falls.values()]
    for name, p, holds in zip(falls, p_values, statistics.holm(p_values), strict=True):
        quantity = f"no fall, {name} (1 of {len(falls)}, Holm)"
        verdict = holds if enough else None
        out.append(
            Claim(quantity=quantity, here=f"p {p:.1g}", seeds=config.num_seeds, holds=verdict)
        )
    first, *_, last = found.along().values()
    out.append(judged("end less first measurement", last - first, criterion="above"))
    most, shares = max(config.dropout), found.values("share")
    lost = found.plain - found.own(DROPOUTS[0], most)
    out.append(judged(f"lost by the student's dropout of {most:g}", lost, criterion="above"))
    fewest = found.own("share", shares[0])
    out.append(judged(f"benign: left at {100 * shares[0]:g} %", fewest, criterion="above"))
    if len(shares) > 2:
        rho = statistics.rank_correlation(shares, found.curve("share").mean(axis=1).tolist())
        here, verdict = f"{rho:.2f}", rho > 0.8 if enough else None
        quantity = "rank correlation of effect and share"
        out.append(Claim(quantity=quantity, here=here, seeds=len(shares), holds=verdict))
    changes = {
        f"teacher's dropout {value:g} less none": judging.Nothing(
            found.own(DROPOUTS[1], value) - found.plain, found.plain
        )
        for value in found.values(DROPOUTS[1])
    }
    return [*out, *judging.equivalences(changes)]
