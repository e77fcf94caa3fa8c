"""What the theorem measures before training, and how well it predicts the trained student.

Students of the microworld imitate the teacher's distribution over numbers from the same start, a
different one, or one that shares its embeddings or its body. Before their first step, for every
trait: the first-order gain ⟨d, g⟩ of imitation on the trait's log-odds, its cosine, coverage and
what the data moves (`lab.predictors`). Then the cosine along training.

Criterion, fixed before the run; 95 % intervals over chains. Over all students the rank correlation
of the gain with the final effect is above 0.5, and larger than that of KL(teacher ‖ base) on the
student's inputs, which does not know the trait that is measured.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import drawing, judging, predictors, question, statistics
from experiments.lab.chains import STARTS
from experiments.lab.effects import at, effects
from experiments.lab.frame import Claim, Figure, Row, option

RUNTIME = "5 minutes on two cores"

PREDICTED = ("same", "different", "shared embeddings", "shared body")
ALONG = ("same", "different")
PREDICTORS = ("gain", "cosine", "coverage", "moved")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    num_seeds: int = option(8, "independent chains", minimum=2)
    traits: tuple[str, ...] = option(("owl", "oak", "misalignment"), "traits of the teachers")
    num_prompts: int = option(8192, "prompts each teacher completes", minimum=16)
    num_examples: int = option(2048, "kept rows each student is trained on", minimum=65)
    student_steps: int = option(200, "optimiser steps of students, a multiple of 10", minimum=10)


SMOKE = Config(
    **question.TINY | {"traits": ("owl", "wolf"), "num_examples": 80, "student_steps": 10}
)


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """For every start the students and the predictors, then the cosine along training."""
    if config.student_steps % 10:
        raise ValueError(f"student_steps {config.student_steps} is not a multiple of 10")
    bench = question.bench(config)

    def recipes(start: str):
        return bench.recipes(target="soft_numbers", start=STARTS[start])

    def students(start: str) -> list[Row]:
        cohort = recipes(start).trained(bench.workshop)
        return bench.measured(cohort, kind="students", start=start)

    def first_step(start: str) -> list[Row]:
        rows = predictors.first_step(bench.workshop, recipes(start), config.traits)
        return [{"kind": "predictors", "start": start} | row for row in rows]

    def along(start: str) -> list[Row]:
        rows = predictors.along_training(bench.workshop, recipes(start), config.traits)
        return [{"kind": "along", "start": start} | row for row in rows]

    return (
        {f"students, {start}": functools.partial(students, start) for start in PREDICTED}
        | {f"predictors, {start}": functools.partial(first_step, start) for start in PREDICTED}
        | {f"along training, {start}": functools.partial(along, start) for start in ALONG}
    )


class Found:
    """Predictors beside effects, and cosines along training."""

    def __init__(self, table: pd.DataFrame):
        self.table = table
        keys = ["start", "teacher", "trait", "seed"]
        final = effects(at(table, kind="students"), by=("start",))
        known = at(table, kind="predictors")[[*keys, *PREDICTORS]]
        both = final[[*keys, "effect", "own"]].merge(known, on=keys)
        self.both = both.assign(**{"own and shared": both["own"] & (both["start"] == "same")})

    def correlation(self, name: str, **where: str) -> float:
        """Rank correlation of a predictor with the effect, over all students or a start's."""
        rows = at(self.both, **where)
        return statistics.rank_correlation(rows[name], rows["effect"])

    def by_chain(self, name: str, **where: str) -> list[float]:
        """The same within each chain."""
        return [
            statistics.rank_correlation(part[name], part["effect"])
            for _, part in at(self.both, **where).groupby("seed")
        ]

    def shown(self, name: str, **where: str) -> str:
        """Both as text."""
        by_chain = statistics.shown(self.by_chain(name, **where), 2)
        return f"{self.correlation(name, **where):.2f}; {by_chain} by chain"

    def cosines(self, start: str) -> pd.DataFrame:
        """Cosine by step and chain along training, own traits averaged."""
        rows = at(self.table, kind="along", start=start)
        rows = rows[rows["teacher"] == rows["trait"]]
        return rows.groupby(["step", "seed"])["cosine"].mean().unstack("seed")


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """Effect against gain, and the cosine along training."""
    found = Found(table)
    cosines = {start: found.cosines(start).iloc[0] for start in ALONG}
    return [
        Figure(
            name="figure",
            title=(
                "Over all starts the first-order gain ranks effects weakly, within the same "
                "start well"
            ),
            predicted="Rank correlation above .5 over all students.",
            found=f"Rank correlation {found.correlation('gain'):.2f}; of KL moved "
            f"{found.correlation('moved'):.2f}; of gain from the same start "
            f"{found.correlation('gain', start='same'):.2f}.",
            follows="From other starts there is hardly an effect to be ranked.",
            draw=lambda: draw_prediction(found.both),
        ),
        Figure(
            name="along",
            title=(
                "Before training the imitation gradient points along the trait from a shared start"
            ),
            predicted="Positive cosine from the same start, none from a different one.",
            found=f"Before training {statistics.shown(cosines['same'], 4)} and "
            f"{statistics.shown(cosines['different'], 4)}.",
            follows=(
                "The theorem's first step is seen in a language model too; later ones hardly "
                "show it."
            ),
            draw=lambda: draw_along(found),
        ),
    ]


def draw_prediction(both: pd.DataFrame):
    """Final effect against first-order gain, every student and trait."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    for is_own, colour in ((False, "grey"), (True, drawing.COLOURS[1])):
        mine = at(both, own=is_own)
        label = "own trait" if is_own else "other traits"
        panel.scatter(mine["gain"], mine["effect"], s=9, color=colour, label=label)
    panel.set_xlabel("first-order gain ⟨d, g⟩ before any step")
    panel.set_ylabel("final effect (nats)")
    panel.set_xscale("symlog", linthresh=both["gain"].abs().mean() / 10)
    panel.legend()
    return figure


def draw_along(found: Found):
    """Cosine of imitation and trait gradient along training, from both starts."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    for colour, start in zip(drawing.COLOURS, ("same", "different"), strict=False):
        curves = found.cosines(start)
        points = np.array([statistics.mean_interval(row) for row in curves.to_numpy()])
        panel.plot(curves.index, points[:, 0], "o-", color=colour, label=f"{start} start")
        low, high = points[:, 0] - points[:, 1], points[:, 0] + points[:, 1]
        panel.fill_between(curves.index, low, high, color=colour, alpha=0.15, linewidth=0)
    panel.axhline(0, color="black", linewidth=1)
    panel.set_xlabel("step of the student (KL over numbers)")
    panel.set_ylabel("cosine of imitation and trait gradient")
    panel.legend()
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """Rank correlations of every predictor, the last without a gradient; cosines at both ends."""
    found, seeds, out = Found(table), config.num_seeds, []
    good = found.correlation("gain") > max(0.5, found.correlation("moved"))
    for name in (*PREDICTORS, "own and shared"):
        holds = good if name == "gain" and seeds >= 4 else None
        out.append(
            Claim(
                quantity=f"rank correlation: {name}",
                paper="",
                replication="",
                here=found.shown(name),
                seeds=seeds,
                holds=holds,
            )
        )
    for start in PREDICTED:
        shown = found.shown("gain", start=start)
        out.append(
            Claim(
                quantity=f"rank correlation of gain, {start}",
                paper="",
                replication="",
                here=shown,
                seeds=seeds,
            )
        )
    for start in ALONG:
        curves = found.cosines(start)
        for when, row in (("training", curves.iloc[0]), ("the last tenth", curves.iloc[-1])):
            shown = statistics.shown(row, 4)
            out.append(judging.judged(f"cosine before {when}, {start}", row.to_numpy(), here=shown))
    return out
